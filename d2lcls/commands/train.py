"""`d2lcls train`: train a network, from scratch or from ImageNet weights."""

import argparse
from pathlib import Path

from d2lcls.commands.checks import check_training
from d2lcls.commands.parsers import positive, share, whole
from d2lcls.training.recipes import PHASES, RECIPES, shortened

SCHEDULES = ("constant", "cosine", "exponential", "linear", "step")
TRANSFORMS = ("pad_crop", "reflect_crop", "flip", "alternating_flip", "cutout", "colour_jitter", "randaugment", "none")
SIZED = ("pad_crop", "reflect_crop", "cutout")


def add(command):
    """Add the command to the parser."""
    train = command(
        "train",
        _train,
        "Train a network, from scratch or from ImageNet weights.",
        "d2lcls train --dataset cifar10 --model cnn",
    )
    add = train.add_argument
    add(
        "--recipe",
        choices=RECIPES,
        action=_Recipe,
        metavar="NAME",
        help=f"a whole recipe, of {', '.join(RECIPES)}; options that follow it change it, and with --epochs its "
        "phases keep their shares",
    )
    add("--dataset", default="cifar10", help="cifar10, fashion_mnist, a folder with train/CLASS/*.jpg, or a .rec file")
    add(
        "--model",
        default="cnn",
        help="cnn, fast94, efficientnet_lite0, or a name of GluonCV's zoo such as cifar_resnet20_v1",
    )
    add(
        "--size",
        type=positive(int),
        metavar="PIXELS",
        help="side that pictures of folders and .rec files are cropped to, and images of named data sets scaled to "
        "(default: 32, and as they are; with --pretrained what the weights were trained for)",
    )
    add("--epochs", type=positive(int), default=12, metavar="N", help="passes over the training set")
    add("--batch-size", type=positive(int), default=128, metavar="N", help="images a step")
    add("--lr", type=positive(float), help="highest learning rate (default: 0.1, with --pretrained 0.01)")
    add("--schedule", choices=SCHEDULES, default="cosine", help="how the learning rate falls")
    add("--warmup-epochs", type=float, default=1.0, metavar="N", help="epochs over which the rate climbs")
    add("--optimizer", default="sgd", help="MXNet's name of the optimizer")
    add("--momentum", type=share, help="of sgd and nag (default: 0.9)")
    add("--bias-lr", type=positive(float), default=1.0, metavar="FACTOR", help="of the rate of biases")
    add("--decay-biases", action="store_true", help="let --wd act on biases too")
    add("--lookahead", type=whole, default=0, metavar="N", help="average with the past every N steps; 0 is off")
    add(
        "--precision",
        choices=("float32", "bfloat16", "float16", "auto"),
        default="float32",
        help="what convolutions and dense layers compute in; auto measures",
    )
    add("--wd", type=float, default=5e-4, help="weight decay, of weights only")
    add("--l1", type=float, default=0.0, metavar="FACTOR", help="of the weights' absolute values, added to the loss")
    add("--clip-norm", type=positive(float), metavar="NORM", help="largest norm of the gradient")
    add(
        "--augment",
        nargs="+",
        type=_transform,
        default=["pad_crop", "flip"],
        metavar="NAME",
        help=f"{', '.join(TRANSFORMS)}; pad_crop:2 shifts by up to 2 pixels",
    )
    add(
        "--small-first",
        type=_small_first,
        metavar="SIDE:EPOCHS",
        help="train so many first epochs on windows of SIDE x SIDE pixels, the quicker, and then on whole images",
    )
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="mixup's alpha; 0 is off")
    add("--validation", type=float, default=0.1, metavar="SHARE", help="share of train kept for validation")
    add("--patience", type=positive(int), metavar="N", help="stop after N epochs without a better validation")
    add("--seed", type=whole, default=0, help="of everything random")
    add("--ctx", default="auto", help="auto, cpu, cpu*2, gpu or gpu:0,1")
    add("--out", metavar="FOLDER", help="the run's folder (default: runs/DATASET-MODEL)")
    add("--resume", action="store_true", help="go on with the run in that folder")
    add("--checkpoint-steps", type=positive(int), metavar="N", help="save every N steps, besides every epoch")
    add("--tensorboard", metavar="FOLDER", help="write curves for TensorBoard there")

    train.set_defaults(tta=False)  # whether a recipe's accuracy is that with six views

    add = train.add_argument_group("fine-tuning").add_argument
    add(
        "--pretrained",
        action="store_true",
        help="begin with ImageNet weights, whose BatchNorm statistics are kept, and a new last layer",
    )
    add(
        "--train-last",
        type=positive(int),
        metavar="N",
        help="train the last N groups of layers only, 1 being the new layer; with --unfreeze, begin with them",
    )
    add("--unfreeze", choices=("gradual",), help="train deeper groups as the epochs go by")
    add(
        "--lr-decay",
        type=positive(float),
        default=1.0,
        metavar="FACTOR",
        help="factor of the rate from one group of layers to the one before it, at most 1",
    )

    add = train.add_argument_group("loss and rare classes").add_argument
    add("--loss", choices=("cross_entropy", "focal"), default="cross_entropy", help="what is made small")
    add("--label-smoothing", type=float, default=0.0, metavar="E", help="of cross_entropy; 0.1 is usual")
    add("--class-weights", action="store_true", help="let an image count in inverse proportion to its class's size")
    add("--balanced", action="store_true", help="draw every class equally often")


class _Recipe(argparse.Action):
    """Set the options that a recipe stands for, but for its phases, which wait for the number of epochs."""

    def __call__(self, parser, namespace, name, option_string=None):
        vars(namespace).update(RECIPES[name], recipe=name, **dict.fromkeys(PHASES))


def _set_phases(options):
    """Set the phases of a recipe that were not given to their shares of the epochs."""
    found = shortened(options.recipe, options.epochs)
    for phase in PHASES:
        if getattr(options, phase) is None:
            setattr(options, phase, found[phase])


def _transform(text):
    """Check the name of a transform, which a colon and a number may follow."""
    name, _, argument = text.partition(":")
    if name not in TRANSFORMS or argument and not (name in SIZED and argument.isdigit()):
        raise argparse.ArgumentTypeError(
            f"must be of {', '.join(TRANSFORMS)}, those of {', '.join(SIZED)} "
            f"perhaps with a number of pixels, as in pad_crop:2, not {text}"
        )
    return text


def _small_first(text):
    """Read the side of windows and the number of epochs that see them."""
    side, _, epochs = text.partition(":")
    if not (side.isdigit() and epochs.isdigit()):
        raise argparse.ArgumentTypeError(f"must be pixels, a colon and epochs, as in 28:10, not {text}")
    return int(side), int(epochs)


def _transform_of(text):
    """Make the transform that a checked text names."""
    from d2lcls import data

    name, _, argument = text.partition(":")
    return getattr(data, name)(*([int(argument)] if argument else []))


def _train(options):
    from d2lcls import data, training
    from d2lcls.models import gradual, preprocessing, set_bias_multiplier, set_lr_multipliers, train_last
    from d2lcls.models.fast94 import whiten
    from d2lcls.training.precision import check_precision
    from d2lcls.training.runs import Run, read_run

    import mxnet as mx

    _check(options)
    if options.recipe:
        _set_phases(options)
    named, source = options.dataset in data.DATASETS, Path(options.dataset)
    expected = preprocessing(options.model) if options.pretrained else None
    side = options.size or expected and expected.crop
    ctx = check_training(options, side)
    check_precision(options.precision, ctx)
    images = data.load(options.dataset, "train", size=side)
    if options.pretrained and images.images.shape[3] != 3:
        raise ValueError(
            f"Pretrained networks take colour images; those of {images.name} have "
            f"{images.images.shape[3]} channel. Train without --pretrained."
        )
    validation = None
    if options.validation:
        images, validation = data.split_validation(images, options.validation, options.seed)
    mean, std = (expected.mean, expected.std) if expected else data.channel_statistics(images.images)
    run = Run(
        options.model,
        options.dataset if named else str(source.resolve()),
        images.classes,
        images.images.shape[1:],
        tuple(mean),
        tuple(std),
        options.validation,
        options.seed,
        size=(side, side) if named and side else None,
        pretrained=options.pretrained,
        loss=_loss_name(options),
    )
    transforms = [_transform_of(text) for text in options.augment if text not in ("alternating_flip", "none")]
    train = run.batches(
        images,
        options.batch_size,
        shuffle=True,
        augment=transforms,
        mixup=options.mixup,
        seed=options.seed,
        balanced=options.balanced,
        alternating_flip="alternating_flip" in options.augment,
        small_first=options.small_first,
    )
    valid = run.batches(validation) if validation else None
    out = Path(options.out or f"runs/{source.stem}-{options.model}")
    begun = (out / "last.npz").exists()
    mx.random.seed(options.seed)
    net = _network(run, options.resume and begun)
    if options.model == "fast94":
        whiten(net, train.normalise(images.images[:5000]))
    set_bias_multiplier(net, options.bias_lr)
    if options.lr_decay != 1:
        set_lr_multipliers(net, options.lr_decay)
    unfreeze = gradual(net, options.epochs, options.train_last or 1) if options.unfreeze else None
    if options.train_last:
        train_last(net, options.train_last)
    if begun and options.resume and (before := read_run(out)) != run:
        raise ValueError(f"{out} was begun with {_difference(before, run)}; it goes on with that only.")

    def begin():
        print(
            f"{len(images):,} training images, {len(validation) if validation else 0:,} for validation, "
            f"{len(images.classes)} classes; writing to {out}"
        )
        if options.resume and not begun:
            print(f"{out} holds no checkpoint: starting anew")
        if not begun:
            run.save(out)

    momentum = None if options.momentum is None else {"momentum": options.momentum}
    training.fit(
        net,
        train,
        valid,
        num_epochs=options.epochs,
        lr=options.lr or (0.01 if options.pretrained else 0.1),
        schedule=options.schedule,
        warmup_epochs=min(options.warmup_epochs, options.epochs),
        optimizer=options.optimizer,
        optimizer_params=momentum,
        wd=options.wd,
        l1=options.l1,
        clip_norm=options.clip_norm,
        loss=_loss(options, images.counts()),
        unfreeze=unfreeze,
        decay_biases=options.decay_biases,
        precision=options.precision,
        lookahead=options.lookahead,
        ctx=ctx,
        seed=options.seed,
        patience=options.patience,
        checkpoint_dir=out,
        checkpoint_steps=options.checkpoint_steps,
        resume=options.resume,
        tensorboard=options.tensorboard,
        on_begin=begin,
    )
    tested = named or any((source / split).is_dir() for split in ("test", "val"))
    print(
        f"Done. Score it {'once on the test set' if tested else 'on its validation set'} with: "
        f"d2lcls evaluate {out}{'' if tested else ' --split validation'}{' --tta' if options.tta else ''}"
    )


def _check(options):
    if (options.train_last or options.unfreeze) and not options.pretrained:
        options.wrong("--train-last and --unfreeze keep layers as they are at first: that needs --pretrained")
    if options.momentum is not None and options.optimizer not in ("sgd", "nag"):
        options.wrong(f"--momentum goes with --optimizer sgd or nag only, not {options.optimizer}")
    if options.label_smoothing and options.loss != "cross_entropy":
        options.wrong("--label-smoothing goes with --loss cross_entropy only")


def _network(run, goes_on):
    """Make the network to be trained; of one that goes on, the checkpoint will bring every parameter."""
    from d2lcls.models import get_model, hold_statistics, replace_head
    from d2lcls.training.runs import make_network

    import mxnet as mx

    if goes_on:
        net = make_network(run)
    else:
        net = get_model(run.model, None if run.pretrained else len(run.classes), pretrained=run.pretrained)
        if run.pretrained:
            replace_head(net, len(run.classes), run.seed)
        else:
            net.initialize(mx.init.MSRAPrelu(slope=0))
    if run.pretrained:
        hold_statistics(net)  # with few images, a batch's own statistics mislead, and running ones lag behind
    return net


def _loss(options, counts):
    from d2lcls.data import class_weights
    from d2lcls.training import losses

    weights = class_weights(counts) if options.class_weights else None
    if options.loss == "focal":
        return losses.focal(class_weights=weights)
    if options.label_smoothing or weights is not None:
        return losses.cross_entropy(options.label_smoothing, weights)
    return None


def _loss_name(options):
    """Describe the loss for the run, which goes on with the same one only."""
    smoothing = f", label_smoothing={options.label_smoothing}" if options.label_smoothing else ""
    return options.loss + smoothing + (", class_weights" if options.class_weights else "")


def _difference(begun, run):
    """Name the first field in which two runs differ, and its value in the first of them."""
    name = next(name for name in vars(begun) if getattr(begun, name) != getattr(run, name))
    return f"{name}={getattr(begun, name)!r}, not {getattr(run, name)!r}"

"""`Recipe`: everything that defines a training run, in one place.

The options of `d2lcls train` and `d2lcls tune`, `run.json`, what a resumed run is compared with and the table in the
book all come from its fields. To add a training option, add a field here and use it where it takes effect.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from d2lcls.data.imbalance import class_weights
from d2lcls.data.transforms import make_transform, standard_for
from d2lcls.data.transforms.registry import PHOTOGRAPH, forms
from d2lcls.training.fields import CUSTOM, check_value, setting
from d2lcls.training.losses import LOSSES, Loss, takes
from d2lcls.training.schedules import SCHEDULES

import numpy as np

PRECISIONS = ("float32", "bfloat16", "float16")
RATES = {"adam": 0.001, "adamw": 0.001, "nadam": 0.001, "lamb": 0.01}  # usual rates where they are not 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a training run; `describe()` lists each field with its meaning and unit.

    Raises:
        ValueError: a value is out of range or does not fit the others; says which.
    """

    dataset: str | None = setting(
        None,
        "cifar10, fashion_mnist, grocery, imagenet (with --root), a folder with train/CLASS/*.jpg or CLASS/*.jpg, a "
        ".csv list (path, class and perhaps split), or a .rec file (default: cifar10)",
        group="most used",
    )
    model: str | None = setting(
        None,
        "cnn, fast94, efficientnet_lite0, a name in GluonCV's model zoo such as cifar_resnet20_v1, or "
        "package.module:Class for a network of your own, whose code is then run (default: cnn, or that of --from)",
        group="most used",
        metavar="NAME",
    )
    num_epochs: int = setting(
        12, "passes over the training set", group="most used", metavar="N", option="--epochs", above=0
    )
    batch_size: int = setting(128, "images per step", group="most used", metavar="N", above=0)
    lr: float | None = setting(
        None,
        "peak learning rate (default: 0.1, for adam, adamw and nadam 0.001, for lamb 0.01; a tenth of that with "
        "--pretrained, --weights or --from)",
        group="most used",
        metavar="RATE",
        above=0,
    )
    size: int | None = setting(
        None,
        "side of the images in pixels: pictures of folders and .rec files are cropped to it (default: 32; imagenet: "
        "224), images of named data sets are scaled to it (default: as they are); with --pretrained, --weights or "
        "--from, the default is the size of the images that the weights were trained on, if it is known",
        group="most used",
        metavar="PIXELS",
        above=0,
    )
    augment: tuple[str, ...] = setting(
        ("standard",),
        "transforms of the training images before they are scaled, applied in the order given; choose from standard "
        f"({' '.join(standard_for(32, 32))} for images of less than {PHOTOGRAPH} pixels on a side, "
        f"{' '.join(standard_for(PHOTOGRAPH, PHOTOGRAPH))} for others), {forms()}, alternating_flip; or none; AREA is "
        "the smallest share of an image that is cropped; photographs to be cropped are read at 8/7 of their side",
        group="most used",
        metavar="NAME",
    )
    pretrained: bool = setting(
        False, "start from ImageNet weights with a new last layer; BatchNorm's statistics stay fixed", group="most used"
    )
    seed: int = setting(0, "seed of every random draw", group="most used", metavar="N", at_least=0)

    root: str | None = setting(
        None,
        "imagenet: the folder that holds train/ and val/ with a folder for each class, or train.rec and val.rec, of "
        "which val is for testing; or a .rec file",
        group="data",
        metavar="DIR",
    )
    validation: float | None = setting(
        None,
        "share of the training images held out for validation; 0 is none (default: the data set's own validation "
        "images, or 0.1)",
        group="data",
        metavar="SHARE",
        at_least=0,
        at_most=1,
    )
    validation_folder: str | None = setting(
        None, "validation images, a folder with CLASS/*.jpg", group="data", metavar="FOLDER"
    )
    skip_broken: bool = setting(
        False, "leave out pictures that cannot be read, after decoding each once to find them", group="data"
    )
    cache: bool = setting(
        False,
        "keep the decoded pictures in a file of the run's folder until the training ends, instead of decoding them in "
        "every epoch",
        group="data",
        resume=False,
    )
    small_first: tuple[int, int] | None = setting(
        None,
        "in the first EPOCHS, train on random windows of SIDE x SIDE pixels, which takes less time",
        group="data",
        metavar="SIDE:EPOCHS",
    )
    mixup: float = setting(0.0, "alpha of mixup; 0 is off", group="data", metavar="ALPHA", at_least=0)
    cutmix: float = setting(
        0.0,
        "alpha of CutMix; 0 is off; with --mixup, each batch gets one of the two at random",
        group="data",
        metavar="ALPHA",
        at_least=0,
    )
    balanced: bool = setting(False, "draw every class equally often", group="data")

    schedule: str | Callable[[int], float] = setting(
        "cosine", "learning-rate schedule after warm-up", group="optimisation", choices=SCHEDULES
    )
    warmup_epochs: float = setting(1.0, "epochs of linear warm-up", group="optimisation", metavar="N", at_least=0)
    optimizer: str = setting(
        "sgd",
        "sgd, nag, adam, adamw (decoupled weight decay), lamb or another of MXNet's optimizers",
        group="optimisation",
        metavar="NAME",
    )
    momentum: float | None = setting(
        None, "momentum of sgd and nag (default: 0.9)", group="optimisation", metavar="FACTOR", at_least=0, at_most=1
    )
    optimizer_params: Mapping[str, Any] | None = setting(
        None, "further arguments of MXNet's optimizer", group="optimisation", option=""
    )
    wd: float = setting(
        5e-4,
        "weight decay; biases and normalisation are spared unless decay_biases is set",
        group="optimisation",
        metavar="FACTOR",
        at_least=0,
    )
    decay_biases: bool = setting(False, "apply weight decay to biases and normalisation too", group="optimisation")
    bias_lr: float = setting(
        1.0, "factor on the learning rate of biases", group="optimisation", metavar="FACTOR", above=0
    )
    l1: float = setting(
        0.0,
        "factor of the L1 penalty, the sum of the weights' absolute values",
        group="optimisation",
        metavar="FACTOR",
        at_least=0,
    )
    clip_norm: float | None = setting(
        None, "clip the gradient to this norm", group="optimisation", metavar="NORM", above=0
    )
    lookahead: int = setting(
        0, "average the weights with their past every N steps; 0 is off", group="optimisation", metavar="N", at_least=0
    )
    ema: float = setting(
        0.0,
        "decay of an exponential moving average of the weights, such as 0.999, which is then validated and saved in "
        "their place; 0 is off",
        group="optimisation",
        metavar="DECAY",
        at_least=0,
    )
    precision: str = setting(
        "float32",
        "precision of convolutions and dense layers; auto measures which is fastest",
        group="optimisation",
        choices=(*PRECISIONS, "auto"),
    )
    patience: int | None = setting(
        None,
        "stop after N epochs without a better validation accuracy",
        group="optimisation",
        metavar="N",
        above=0,
        resume=False,
    )

    weights: str | None = setting(
        None,
        "start from the parameters of --model in a .params, .safetensors or .pth file; the last layer is replaced if "
        "it has another number of classes; BatchNorm's statistics stay fixed",
        group="fine-tuning",
        metavar="FILE",
    )
    from_run: str | None = setting(
        None,
        "start from the best parameters of an earlier run, the folder that train wrote, with its model and its "
        "normalisation of the images; the last layer is replaced if the classes differ; BatchNorm's statistics stay "
        "fixed",
        group="fine-tuning",
        metavar="RUN",
        option="--from",
    )
    train_last: int | None = setting(
        None,
        "train only the last N groups of layers, 1 being the new layer; with --unfreeze, start with them; with 1 and "
        "--augment none, the frozen layers run once for each image rather than in every epoch",
        group="fine-tuning",
        metavar="N",
        above=0,
    )
    unfreeze: str | Mapping[int, int] | None = setting(
        None, "gradual: train deeper groups of layers as the epochs go by", group="fine-tuning", choices=("gradual",)
    )
    layer_lr_decay: float = setting(
        1.0,
        "factor on the learning rate from one group of layers to the one before it",
        group="fine-tuning",
        metavar="FACTOR",
        above=0,
        at_most=1,
    )

    loss: str | Callable[..., Any] = setting(
        "cross_entropy", "the loss function", group="loss and rare classes", choices=LOSSES
    )
    label_smoothing: float = setting(
        0.0, "label smoothing of cross_entropy; 0.1 is usual", group="loss and rare classes", metavar="E", at_least=0
    )
    class_weights: bool = setting(
        False, "weight each image by the inverse of its class's frequency", group="loss and rare classes"
    )

    tta: bool = setting(
        False,
        "score the network on six views of each image, shifted and mirrored",
        group="run",
        option="",
        resume=False,
    )
    checkpoint_steps: int | None = setting(
        None,
        "save a checkpoint every N steps, in addition to every epoch",
        group="run",
        metavar="N",
        above=0,
        resume=False,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", self.optimizer.lower())  # as MXNet takes it
        for field in dataclasses.fields(self):
            check_value(field, getattr(self, field.name))
        for text in self.transforms:
            make_transform(text)
        if self.small_first and not (len(self.small_first) == 2 and min(self.small_first) >= 1):
            raise ValueError(f"small_first must be a side in pixels and a number of epochs, not {self.small_first}.")
        if self.dataset == "imagenet" and not self.root:
            raise ValueError("root is needed with the dataset imagenet: the folder that holds train/, or a .rec file.")
        if self.root and self.dataset != "imagenet":
            raise ValueError("root is only for the dataset imagenet.")
        if self.validation == 1:
            raise ValueError("validation must be below 1: some images must be left to train on.")
        if self.validation is not None and self.validation_folder:
            raise ValueError("validation_folder takes the place of validation: give only one of them.")
        starts = [name for name in ("from_run", "weights", "pretrained") if getattr(self, name)]
        if len(starts) > 1:
            raise ValueError(f"{starts[0]} and {starts[1]} are two starting points: give only one of them.")
        if self.weights and not self.model:
            raise ValueError("weights belong to a network: name it with model.")
        if not self.ema < 1:
            raise ValueError(f"ema must be below 1, not {self.ema}.")
        if self.ema and self.lookahead:
            raise ValueError("ema and lookahead both average the weights: give only one of them.")
        if not self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be below 1, not {self.label_smoothing}.")
        if self.momentum is not None and self.optimizer not in ("sgd", "nag"):
            raise ValueError(f"momentum goes with the optimizers sgd and nag only, not {self.optimizer}.")
        if self.label_smoothing and not takes(self.loss, "label_smoothing"):
            raise ValueError(f"label_smoothing goes with the loss cross_entropy only, not {_described(self.loss)}.")
        if self.class_weights and not takes(self.loss, "class_weights"):
            raise ValueError("class_weights goes with a loss by name only, not with a function.")

    @property
    def starts_trained(self) -> bool:
        """Whether the network starts from trained parameters: ImageNet weights, a file, or an earlier run."""
        return bool(self.pretrained or self.weights or self.from_run)

    @property
    def peak_lr(self) -> float:
        """The peak learning rate: `lr`, or its default."""
        usual = RATES.get(self.optimizer, 0.1)
        return self.lr or (usual / 10 if self.starts_trained else usual)

    @property
    def transforms(self) -> list[str]:
        """The names of `augment` that are functions of a single batch; alternating flips depend on the epoch."""
        return [name for name in self.augment if name not in ("standard", "alternating_flip", "none")]

    def for_images(self, height: int, width: int) -> Recipe:
        """Return the recipe with "standard" in `augment` replaced by what it means for images of a size in pixels."""
        names = (standard_for(height, width) if name == "standard" else (name,) for name in self.augment)
        return dataclasses.replace(self, augment=tuple(itertools.chain.from_iterable(names)))

    def optimizer_arguments(self) -> dict[str, Any]:
        """Return the arguments of MXNet's optimizer."""
        arguments: dict[str, Any] = {"learning_rate": self.peak_lr, "wd": self.wd}
        if self.optimizer in ("sgd", "nag"):
            arguments["momentum"] = 0.9 if self.momentum is None else self.momentum
        return {**arguments, **(self.optimizer_params or {})}

    def learning_rate(self, steps_per_epoch: int) -> Callable[[int], float]:
        """Return the function from a step of the run, from 0, to its learning rate; see `d2lcls.training.schedules`."""
        if not isinstance(self.schedule, str):
            return self.schedule
        _refuse_description("schedule", self.schedule)
        warmup_epochs = min(self.warmup_epochs, self.num_epochs)
        total, warmup = self.num_epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
        return SCHEDULES[self.schedule](self.peak_lr, total, warmup)

    def make_loss(self, counts: Callable[[], np.ndarray]) -> Loss | None:
        """Return the loss function; None is plain cross-entropy, which `train_step` computes with Gluon's loss.

        Args:
            counts: function that returns the number of training images of each class, int (K,).
        """
        if not isinstance(self.loss, str):
            return self.loss
        _refuse_description("loss", self.loss)
        arguments: dict[str, Any] = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        if self.class_weights:
            arguments["class_weights"] = class_weights(counts())
        return None if self.loss == "cross_entropy" and not arguments else LOSSES[self.loss](**arguments)

    def scaled(self, num_epochs: int) -> Recipe:
        """Return the recipe with another number of epochs, of which warm-up and small windows keep their shares.

        The number of epochs on windows is rounded down, so that the last epoch always uses whole images.
        """
        factor = num_epochs / self.num_epochs
        small_first = self.small_first and (self.small_first[0], int(self.small_first[1] * factor))
        return dataclasses.replace(
            self,
            num_epochs=num_epochs,
            warmup_epochs=self.warmup_epochs * factor,
            small_first=small_first if small_first and small_first[1] else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them; a function is replaced by its description."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_json` described.

        Raises:
            TypeError, ValueError: these are not the fields of a recipe.
        """
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        if isinstance(values.get("unfreeze"), dict):
            values["unfreeze"] = {int(epoch): groups for epoch, groups in values["unfreeze"].items()}
        return cls(**values)

    def describe(self, changed: bool = False) -> str:
        """Return a table in Markdown: each field, its value and its meaning, without its default and further details.

        Args:
            changed: list only the fields that differ from their defaults.
        """
        rows = [
            f"| `{field.name}` | {_described(getattr(self, field.name))} | {_clause(field)} |"
            for field in dataclasses.fields(self)
            if not changed or getattr(self, field.name) != field.default
        ]
        return "\n".join(["| field | value | meaning |", "|---|---|---|", *rows])


COMPARED = {
    field.name for field in dataclasses.fields(Recipe) if field.metadata["resume"]
}  # what a resumed run must share


def options() -> Iterator[dataclasses.Field[Any]]:
    """Yield the fields that are options of the command line."""
    return (field for field in dataclasses.fields(Recipe) if field.metadata["option"] != "")


def _clause(field: dataclasses.Field[Any]) -> str:
    """Return the beginning of a field's help, which says what it is."""
    return field.metadata["text"].split(" (default")[0].split("; ")[0]


def _refuse_description(name: str, value: str) -> None:
    if value.startswith(CUSTOM):
        raise ValueError(
            f"The recipe's {name} was a function ({value}), which JSON cannot hold: pass the function again."
        )


def _plain(value: Any) -> Any:
    if callable(value):
        return CUSTOM + getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value.item() if hasattr(value, "item") else value


def _described(value: Any) -> str:
    value = _plain(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

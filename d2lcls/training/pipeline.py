"""`train`: from a recipe to a trained network; each step is a function that can be used separately."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2lcls import data
from d2lcls.data.batches import Batches
from d2lcls.data.cached import cached
from d2lcls.data.formats.imagenet import open_imagenet_split
from d2lcls.data.formats.splits import open_pictures
from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages
from d2lcls.data.transforms.photographs import MARGIN
from d2lcls.data.transforms.registry import crops
from d2lcls.machine import devices
from d2lcls.machine.files import hold_folder
from d2lcls.models import get_model
from d2lcls.models.zoo import model_name
from d2lcls.training.evaluation import as_contexts, scored_at_once
from d2lcls.training.loop import Epoch, fit, print_epoch
from d2lcls.training.precision import check_precision
from d2lcls.training.recipe import Recipe
from d2lcls.training.runs import Run, read_run
from d2lcls.training.steps import check_training_memory
from d2lcls.training.transfer.start import check_start, expected_input, locate, make_network
from d2lcls.weights.store import get_weights

import mxnet as mx
import numpy as np

DATASET, MODEL = "cifar10", "cnn"  # of a recipe that names none
VALIDATION = 0.1  # share of the training images, of a recipe that gives none for a set without validation images
PICTURES = 2000  # of which statistics are computed if pictures are decoded one by one
AnyImages = Images | LazyImages


@dataclass(frozen=True, eq=False)
class Trained:
    """What `train` returns: the network with its best parameters, the results of each epoch, and the run's folder."""

    net: mx.gluon.HybridBlock
    epochs: list[Epoch]
    run: Run
    folder: Path


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    ctx: str | mx.Context | list[mx.Context] = "auto",
    resume: bool = False,
    on_epoch: Callable[[Epoch], Any] | None = print_epoch,
    on_begin: Callable[[AnyImages, AnyImages | None, Path], Any] | None = None,
) -> Trained:
    """Carry out a recipe: open its data, make its network, train it, and write the run's folder.

    `d2lcls train` is this function. Model, device, memory and data are checked before anything is written.

    Args:
        recipe: `Recipe`.
        folder: the run's folder; None is `runs/DATASET-MODEL`.
        ctx: "auto", "cpu", "cpu*2", "gpu" or "gpu:0,1"; or as for `fit`.
        resume: continue the run in the folder, if there is one.
        on_epoch: as for `fit`.
        on_begin: function called with the training images, the validation images (or None) and the folder before the
            first step.

    Returns:
        `Trained`.

    Raises:
        FileNotFoundError, DataUnavailable: as `data.open_split`.
        BrokenImage: a picture cannot be read, and `skip_broken` is not set.
        Others: as `fit`.
    """
    recipe = resolve(recipe)
    name = (recipe.model or MODEL).rpartition(":")[2]  # of a class of one's own without its module
    folder = Path(folder or f"runs/{Path(recipe.dataset or DATASET).stem}-{name}")
    with hold_folder(folder):
        return _train(recipe, folder, ctx, resume, on_epoch, on_begin)


def _train(
    recipe: Recipe,
    folder: Path,
    ctx: str | mx.Context | list[mx.Context],
    resume: bool,
    on_epoch: Callable[[Epoch], Any] | None,
    on_begin: Callable[[AnyImages, AnyImages | None, Path], Any] | None,
) -> Trained:
    contexts = devices.parse(ctx) if isinstance(ctx, str) else as_contexts(ctx)
    restored = resume and (folder / "last.npz").exists()
    if not restored:
        check_start(recipe)
    check_feasible(recipe, contexts)
    images, validation = open_images(recipe)
    recipe = recipe.for_images(*images.images.shape[1:3])  # for run.json
    if recipe.pretrained and not restored:
        get_weights(recipe.model or MODEL)  # their source decides the preprocessing
    if recipe.from_run and restored:
        started = dataclasses.replace(recipe, from_run=str(folder))  # the earlier run is not needed any more
    else:
        started = recipe
    with _cached(recipe, images, validation, folder) as (images, validation):
        batches, valid = cut_batches(started, images, validation)
        mx.random.seed(recipe.seed)
        net = make_network(recipe, batches, restored, print if on_epoch and not restored else None)
        if on_begin:
            on_begin(images, validation, folder)
        epochs = fit(net, batches, valid, recipe, ctx=contexts, checkpoint_dir=folder, resume=resume, on_epoch=on_epoch)
    return Trained(net, epochs, read_run(folder), folder)


@contextmanager
def _cached(
    recipe: Recipe, images: AnyImages, validation: AnyImages | None, folder: Path
) -> Iterator[tuple[AnyImages, AnyImages | None]]:
    """Keep the decoded pictures in the run's folder, if the recipe says so and they are not in memory already."""
    with ExitStack() as files:

        def keep(opened: Any, name: str, size: tuple[int, int] | None = None) -> Any:
            if not (recipe.cache and isinstance(opened, data.LazyImages)):
                return opened
            folder.mkdir(parents=True, exist_ok=True)
            return files.enter_context(cached(opened, folder / name, size))

        yield keep(images, "train.decoded", decoded_size(recipe, images)), keep(validation, "validation.decoded")


def resolve(recipe: Recipe) -> Recipe:
    """Return a recipe with data set (paths as absolute ones), model, image size and learning rate filled in."""
    recipe = locate(recipe)
    dataset, root = recipe.dataset or DATASET, recipe.root and str(Path(recipe.root).resolve())
    if dataset not in (*data.DATASETS, "imagenet") and Path(dataset).exists():
        dataset = str(Path(dataset).resolve())
    model = model_name(recipe.model or MODEL)
    folder = recipe.validation_folder and str(Path(recipe.validation_folder).resolve())
    recipe = dataclasses.replace(
        recipe, dataset=dataset, root=root, validation_folder=folder, model=model, lr=recipe.peak_lr
    )
    expected = None if recipe.size else expected_input(recipe)
    return dataclasses.replace(recipe, size=expected.size) if expected else recipe


def check_feasible(recipe: Recipe, ctx: list[mx.Context]) -> None:
    """Check what can be checked without reading images.

    Raises:
        ValueError: there is no such model, or the device does not support the precision.
        FileNotFoundError: there is no such folder or file.
        MemoryError: a batch of such images cannot fit into memory.
    """
    assert recipe.dataset and recipe.model
    check_precision(recipe.precision, ctx)
    if (recipe.train_last or recipe.unfreeze) and not recipe.starts_trained:
        raise ValueError(
            "train_last and unfreeze freeze layers, so the network must start from trained weights: set pretrained, "
            "weights or from_run."
        )
    if recipe.patience and recipe.validation == 0:
        raise ValueError("patience needs a validation set: validation must be above 0.")
    net, shape = get_model(recipe.model), _image_shape(recipe)
    if shape and ctx[0].device_type == "cpu":
        count, height, width, channels = shape
        check_training_memory(net, (min(count, recipe.batch_size), channels, height, width))


def _image_shape(recipe: Recipe) -> tuple[int, ...] | None:
    """Return the shape (N, H, W, C) of a set of images without reading them; None for a name that is refused later."""
    dataset, size = recipe.dataset or "", recipe.size
    if dataset == "imagenet":
        return recipe.batch_size, size or 224, size or 224, 3  # listing its pictures takes long
    if dataset in data.DATASETS:
        height, width, channels = data.DATASETS[dataset].image_shape
        return data.DATASETS[dataset].splits["train"], size or height, size or width, channels
    if not Path(dataset).exists():
        return None
    return open_pictures(Path(dataset), "train", size or 32, announce=False).images.shape


def open_images(recipe: Recipe) -> tuple[AnyImages, AnyImages | None]:
    """Open the training and validation images of a resolved recipe; the latter are None if it has none.

    Pictures of one's own are only listed, and each file is looked at; see `LazyImages.checked`.

    Raises:
        BrokenImage: a picture cannot be read, and the recipe does not skip these.
        Others: as `data.open_split`.
    """
    assert recipe.dataset

    def opened(images: AnyImages) -> AnyImages:
        return images.checked(recipe.skip_broken) if isinstance(images, LazyImages) else images

    images = opened(data.open_split(recipe.dataset, "train", size=recipe.size, draft=True, root=recipe.root))
    if recipe.pretrained and images.images.shape[3] != 3:
        raise ValueError(
            f"Pretrained networks take colour images; those of {images.name} have {images.images.shape[3]} channel. "
            "Train without --pretrained."
        )
    if recipe.validation_folder:
        place, size = recipe.validation_folder, _height_and_width(images)
        if recipe.dataset == "imagenet":
            return images, opened(open_imagenet_split(place, "val", size, draft=True))
        return images, opened(data.open_folder(place, size, draft=True).with_classes(images.classes))
    if recipe.validation is None and data.has_split(recipe.dataset, "val"):
        return images, opened(data.open_split(recipe.dataset, "val", size=recipe.size, draft=True))
    share = VALIDATION if recipe.validation is None else recipe.validation
    return data.split_validation(images, share, recipe.seed) if share else (images, None)


def cut_batches(recipe: Recipe, images: AnyImages, validation: AnyImages | None) -> tuple[Batches, Batches | None]:
    """Cut training and validation images into batches as a resolved recipe says."""
    shape = _height_and_width(images)
    recipe = recipe.for_images(*shape)
    assert recipe.model
    expected, channels = expected_input(recipe), images.images.shape[3]
    if expected and len(expected.mean) != channels:
        raise ValueError(
            f"The parameters to start from are for images with {len(expected.mean)} channels; those of {images.name} "
            f"have {channels}. Start from others, or train from random parameters."
        )
    mean, std = expected[1:] if expected else data.channel_statistics(_some(images))
    loaded = shape == (recipe.size, recipe.size)  # photographs are cropped on loading
    size = None if loaded else recipe.size
    train = Batches(
        images,
        recipe.batch_size,
        mean,
        std,
        shuffle=True,
        augment=[data.make_transform(text, shape) for text in recipe.transforms],
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        seed=recipe.seed,
        size=size,
        balanced=recipe.balanced,
        alternating_flip="alternating_flip" in recipe.augment,
        small_first=recipe.small_first,
        decode=decoded_size(recipe, images),
    )
    scored = scored_at_once(*((recipe.size, recipe.size) if recipe.size else shape))
    return train, Batches(validation, scored, mean, std, size=size) if validation else None


def decoded_size(recipe: Recipe, images: AnyImages) -> tuple[int, int] | None:
    """Return the (height, width) at which training images are decoded: `MARGIN` larger if random crops follow.

    Validation and test images are not cropped at random and are decoded at their own size.

    Args:
        recipe: `Recipe`, with the transforms that "standard" in `augment` stands for.
        images: the training images; None is returned for those in memory, and if nothing is cropped at random.
    """
    if isinstance(images, Images) or not any(map(crops, recipe.transforms)):
        return None
    height, width = _height_and_width(images)
    return round(height * MARGIN), round(width * MARGIN)


def _height_and_width(images: AnyImages) -> tuple[int, int]:
    return images.images.shape[1], images.images.shape[2]


def _some(images: AnyImages) -> np.ndarray:
    """Return the pixels that statistics are computed of: all that are in memory, or those of some pictures."""
    if isinstance(images, Images) or len(images) <= PICTURES:
        return images.images[:]
    return images.images[np.random.default_rng(0).choice(len(images), PICTURES, replace=False)]

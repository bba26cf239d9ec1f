"""A training run's folder: what `fit` writes into it, and using the trained network later with `load_run`.

The folder holds `run.json` (the recipe, the classes and the preprocessing of the images), `network.json` (the network's
graph) and the checkpoints `last.npz` and `best.npz`. Together they are all that is needed to use the network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2lcls.data.batches import Batches
from d2lcls.data.decode import PictureSource, read_image
from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages
from d2lcls.data.preprocess import Preprocess
from d2lcls.explain.scores import softmax
from d2lcls.machine.files import write_atomically
from d2lcls.machine.gluon import parameters_by_path
from d2lcls.models.symbols.allowed import load_symbol
from d2lcls.training.checkpoints import CheckpointError, load_parameters
from d2lcls.training.evaluation import as_contexts, predict, scored_at_once
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np

RUN, NETWORK = "run.json", "network.json"


@dataclass(frozen=True)
class Run:
    """What a run's folder says about it; sizes in pixels, mean and std on the 0..1 scale."""

    recipe: Recipe
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # (H, W, C), as loaded
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None  # (H, W) that images are scaled to for the network; None leaves them as they are
    validation_images: int

    @classmethod
    def of(cls, recipe: Recipe, train: Batches, valid: Any, net: mx.gluon.Block) -> Run:
        """Describe a run by its recipe and its batches."""
        recipe = dataclasses.replace(
            recipe,
            dataset=recipe.dataset or _set_name(train.data.name),
            model=recipe.model or type(net).__name__.lower(),
        )
        height, width, channels = train.data.images.shape[1:]
        mean, std = (tuple(float(value) for value in values) for values in (train.mean, train.std))
        classes, validation_images = tuple(train.data.classes), 0 if valid is None else len(valid.data)
        return cls(recipe, classes, (height, width, channels), mean, std, train.size, validation_images)

    def batches(self, images: Images | LazyImages, batch_size: int | None = None, **kwargs: Any) -> Batches:
        """Cut images into batches that are scaled and normalised as in training.

        Args:
            images: of the run's size and classes.
            batch_size: None is that of `scored_at_once`.
            kwargs: as for `Batches`.

        Raises:
            ValueError: the images or classes are not those the run was trained on.
        """
        if tuple(images.images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"The run was trained on images of shape {self.image_shape}, these are {images.images.shape[1:]}."
            )
        if tuple(images.classes) != self.classes:
            raise ValueError(
                f"The run was trained on the classes {', '.join(self.classes)}; this set has "
                f"{', '.join(images.classes)}."
            )
        batch_size = batch_size or scored_at_once(*(self.size or self.image_shape[:2]))
        return Batches(images, batch_size, self.mean, self.std, size=self.size, **kwargs)

    def preprocess(self) -> Preprocess:
        """Return the `Preprocess` from any picture to the input of the run's network.

        Raises:
            ValueError: the network does not take square images in colour.
        """
        height, width = self.size or self.image_shape[:2]
        if height != width or self.image_shape[2] != 3:
            raise ValueError(
                f"The run's network takes images of shape {(height, width, self.image_shape[2])}; a model folder "
                "needs square ones in colour. Train on such images, or choose another network."
            )
        (mean_r, mean_g, mean_b), (std_r, std_g, std_b) = self.mean, self.std
        interpolation = "bicubic" if self.size else "bilinear"
        return Preprocess(height, height, (mean_r, mean_g, mean_b), (std_r, std_g, std_b), interpolation)

    def picture(self, source: PictureSource) -> np.ndarray:
        """Read a picture as the run's images were loaded: scaled to cover their size, and its centre cropped.

        Returns:
            uint8 (H, W, C), of the run's `image_shape`.

        Raises:
            BrokenImage, FileNotFoundError: as `read_image`.
        """
        height, width, channels = self.image_shape
        image = read_image(source, (height, width))
        if channels == 1:
            return np.rint(image @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        return image

    def check_same(self, folder: str | Path) -> None:
        """Raise ValueError if a folder holds a run on other images; recipes are compared with the checkpoint."""
        before = read_run(folder)
        for field in dataclasses.fields(self)[1:]:
            theirs, ours = getattr(before, field.name), getattr(self, field.name)
            if theirs != ours:
                raise ValueError(
                    f"{folder} was started with {field.name}={theirs!r}, not {ours!r}; resume it with that."
                )


def _set_name(name: str) -> str:
    """Return the name of a set of images as a recipe's data set: "imagenet" there stands for the one with `root`."""
    return "imagenet pictures" if name == "imagenet" else name


def save_run(run: Run, folder: Path, net: mx.gluon.HybridBlock) -> None:
    """Write `run.json` and `network.json`, the graph of a network whose shapes are known, into a folder."""
    description = {**asdict(run), "recipe": run.recipe.to_json()}
    graph = {
        "graph": json.loads(net(mx.sym.var("data")).tojson()),
        "parameters": {path: parameter.name for path, parameter in parameters_by_path(net).items()},
    }
    for name, content in ((RUN, description), (NETWORK, graph)):
        write_atomically(folder / name, json.dumps(content, indent=1).encode())


def read_run(folder: str | Path) -> Run:
    """Return the `Run` that a run folder describes.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its `run.json` is damaged.
    """
    file = Path(folder, RUN)
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: holds no run.json, so it is not a training run. Train one with: d2lcls train --out {folder}"
        )
    try:
        described = json.loads(file.read_text())
        _check_types(described)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
        return Run(**{**values, "recipe": Recipe.from_json(values["recipe"])})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file}: damaged, or of an older version ({error}). Train the run again.") from error


def _check_types(values: Any) -> None:
    """Raise ValueError if a value of `run.json` has another type than `Run` declares; `Recipe` checks its own."""
    if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
        raise ValueError("it must hold an object with a recipe")
    shape, size, count = values["image_shape"], values["size"], values["validation_images"]
    if not (_is_list(values["classes"], str) and values["classes"]):
        raise ValueError("classes must be a list of names")
    if not (_is_list(shape, int) and len(shape) == 3 and min(shape) > 0):
        raise ValueError("image_shape must be three positive integers")
    if size is not None and not (_is_list(size, int) and len(size) == 2 and min(size) > 0):
        raise ValueError("size must be null or two positive integers")
    for name in ("mean", "std"):
        if not (_is_list(values[name], int, float) and len(values[name]) == shape[2]):
            raise ValueError(f"{name} must be {shape[2]} numbers, one per channel")
    if type(count) is not int or count < 0:
        raise ValueError("validation_images must be an integer from 0")


def _is_list(value: Any, *types: type) -> bool:
    return isinstance(value, list) and all(type(item) in types for item in value)  # a bool is not an int here


def load_run(folder: str | Path, ctx: mx.Context | list[mx.Context] | None = None) -> tuple[Run, mx.gluon.HybridBlock]:
    """Load a run and its best parameters.

    Args:
        folder: what `train` wrote, or `fit` with `checkpoint_dir`.
        ctx: context or list of contexts for the network; None is the CPU.

    Returns:
        (`Run`, network); the network is a `gluon.SymbolBlock` with the graph that was trained, ready for use.

    Raises:
        FileNotFoundError: the folder holds no run, or no epoch of it was finished.
        CheckpointError: a file is damaged.
    """
    run = read_run(folder)
    net = _load_network(Path(folder, NETWORK), best_checkpoint(folder, run), as_contexts(ctx))
    net.hybridize(static_alloc=True, static_shape=True)
    return run, net


def best_checkpoint(folder: str | Path, run: Run) -> Path:
    """Return the path of a run's best parameters: without validation, those of its last step.

    Raises:
        FileNotFoundError: no epoch of the run was finished.
    """
    best = Path(folder, "best.npz" if run.validation_images else "last.npz")
    if not best.is_file():
        raise FileNotFoundError(
            f"{folder}: no epoch of this run was finished yet. Finish it with: d2lcls train --resume --out {folder}"
        )
    return best


def _load_network(file: Path, checkpoint: Path, ctx: list[mx.Context]) -> mx.gluon.HybridBlock:
    """Return the network whose graph is in a file and whose parameters are in a checkpoint."""
    try:
        content = json.loads(file.read_text())
        graph, names = load_symbol(json.dumps(content["graph"])), content["parameters"]
    except (OSError, ValueError, KeyError, TypeError, mx.MXNetError) as error:
        raise CheckpointError(f"{file}: damaged, or not a network ({error}). Train the run again.") from error
    net = mx.gluon.SymbolBlock(graph, mx.sym.var("data", dtype="float32"))
    parameters = net.collect_params()
    if set(names.values()) != set(parameters):
        raise CheckpointError(f"{file}: its parameters are not those of its graph. Train the run again.")
    load_parameters(checkpoint, {path: parameters[name] for path, name in names.items()}, ctx)
    return net


def classify(run: Run, net: mx.gluon.Block, paths: Sequence[str | Path]) -> np.ndarray:
    """Return the probabilities (N, K) that a run's network gives to picture files.

    Each picture is read by `Run.picture`; from there on it is treated as the training images were.

    Raises:
        BrokenImage, FileNotFoundError: as `read_image`.
    """
    return classify_images(run, net, np.stack([run.picture(path) for path in paths]))


def classify_images(run: Run, net: mx.gluon.Block, images: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, K) that a run's network gives to images, uint8 (N, H, W, C) of the run's size."""
    pictures = Images(images, np.zeros(len(images), dtype=np.int64), run.classes, "pictures")
    return softmax(predict(net, run.batches(pictures)))

"""`Recipe`: everything that defines a training run, in one place.

The options of `d2lcls train` and `d2lcls tune`, `run.json`, what a resumed run is compared with and the table in the
book all come from its fields. To add a training option, add a field here and use it where it takes effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from d2lcls.data.imbalance import class_weights
from d2lcls.data.transforms import TRANSFORMS, make_transform
from d2lcls.training.losses import LOSSES, Loss, takes
from d2lcls.training.schedules import SCHEDULES

import numpy as np

PRECISIONS = ("float32", "bfloat16", "float16")
CUSTOM = "function "  # begins the description of a function that the caller supplied


def _field(
    default: Any,
    text: str,
    *,
    group: str,
    metavar: str | None = None,
    option: str | None = None,
    choices: Mapping[str, Any] | tuple[str, ...] = (),
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    resume: bool = True,
) -> Any:
    """Describe a field.

    Args:
        default: its default.
        text: what it means, with its unit.
        group: the group of options that it is listed in.
        metavar: what stands for its value in the help of the command line.
        option: the name of its option; None is the field's name with dashes; "" is no option.
        choices: the names that are allowed.
        above, at_least, at_most: limits of a number.
        resume: whether a resumed run must have the same value.
    """
    metadata = {
        "text": text,
        "group": group,
        "metavar": metavar,
        "option": option,
        "choices": tuple(choices),
        "above": above,
        "at_least": at_least,
        "at_most": at_most,
        "resume": resume,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a training run; `describe()` lists each field with its meaning and unit.

    Raises:
        ValueError: a value is out of range or does not fit the others; says which.
    """

    dataset: str | None = _field(
        None,
        "cifar10, fashion_mnist, a folder with train/CLASS/*.jpg, or a .rec file (default: cifar10)",
        group="most used",
    )
    model: str | None = _field(
        None,
        "cnn, fast94, efficientnet_lite0, or a name in GluonCV's model zoo such as cifar_resnet20_v1 (default: cnn)",
        group="most used",
        metavar="NAME",
    )
    num_epochs: int = _field(
        12, "passes over the training set", group="most used", metavar="N", option="--epochs", above=0
    )
    batch_size: int = _field(128, "images per step", group="most used", metavar="N", above=0)
    lr: float | None = _field(
        None, "peak learning rate (default: 0.1, or 0.01 with --pretrained)", group="most used", metavar="RATE", above=0
    )
    size: int | None = _field(
        None,
        "side of the images in pixels: pictures of folders and .rec files are cropped to it (default: 32), images of "
        "named data sets are scaled to it (default: as they are); with --pretrained, to the size of the weights",
        group="most used",
        metavar="PIXELS",
        above=0,
    )
    augment: tuple[str, ...] = _field(
        ("pad_crop", "flip"),
        "transforms of the training images, applied in the order given; choose from "
        f"{', '.join(TRANSFORMS)}, alternating_flip; or none; pad_crop:2 shifts by up to 2 pixels",
        group="most used",
        metavar="NAME",
    )
    pretrained: bool = _field(
        False, "start from ImageNet weights with a new last layer; BatchNorm's statistics stay fixed", group="most used"
    )
    seed: int = _field(0, "seed of every random draw", group="most used", metavar="N", at_least=0)

    validation: float = _field(
        0.1,
        "share of the training images held out for validation; 0 is none",
        group="data",
        metavar="SHARE",
        at_least=0,
        at_most=1,
    )
    small_first: tuple[int, int] | None = _field(
        None,
        "in the first EPOCHS, train on random windows of SIDE x SIDE pixels, which takes less time",
        group="data",
        metavar="SIDE:EPOCHS",
    )
    mixup: float = _field(0.0, "alpha of mixup; 0 is off", group="data", metavar="ALPHA", at_least=0)
    balanced: bool = _field(False, "draw every class equally often", group="data")

    schedule: str | Callable[[int], float] = _field(
        "cosine", "learning-rate schedule after warm-up", group="optimisation", choices=SCHEDULES
    )
    warmup_epochs: float = _field(1.0, "epochs of linear warm-up", group="optimisation", metavar="N", at_least=0)
    optimizer: str = _field("sgd", "MXNet's name of the optimizer", group="optimisation", metavar="NAME")
    momentum: float | None = _field(
        None, "momentum of sgd and nag (default: 0.9)", group="optimisation", metavar="FACTOR", at_least=0, at_most=1
    )
    optimizer_params: Mapping[str, Any] | None = _field(
        None, "further arguments of MXNet's optimizer", group="optimisation", option=""
    )
    wd: float = _field(
        5e-4,
        "weight decay; biases and normalisation are spared unless decay_biases is set",
        group="optimisation",
        metavar="FACTOR",
        at_least=0,
    )
    decay_biases: bool = _field(False, "apply weight decay to biases and normalisation too", group="optimisation")
    bias_lr: float = _field(
        1.0, "factor on the learning rate of biases", group="optimisation", metavar="FACTOR", above=0
    )
    l1: float = _field(
        0.0,
        "factor of the L1 penalty, the sum of the weights' absolute values",
        group="optimisation",
        metavar="FACTOR",
        at_least=0,
    )
    clip_norm: float | None = _field(
        None, "clip the gradient to this norm", group="optimisation", metavar="NORM", above=0
    )
    lookahead: int = _field(
        0, "average the weights with their past every N steps; 0 is off", group="optimisation", metavar="N", at_least=0
    )
    precision: str = _field(
        "float32",
        "precision of convolutions and dense layers; auto measures which is fastest",
        group="optimisation",
        choices=(*PRECISIONS, "auto"),
    )
    patience: int | None = _field(
        None,
        "stop after N epochs without a better validation accuracy",
        group="optimisation",
        metavar="N",
        above=0,
        resume=False,
    )

    train_last: int | None = _field(
        None,
        "train only the last N groups of layers, 1 being the new layer; with --unfreeze, start with them",
        group="fine-tuning",
        metavar="N",
        above=0,
    )
    unfreeze: str | Mapping[int, int] | None = _field(
        None, "gradual: train deeper groups of layers as the epochs go by", group="fine-tuning", choices=("gradual",)
    )
    layer_lr_decay: float = _field(
        1.0,
        "factor on the learning rate from one group of layers to the one before it",
        group="fine-tuning",
        metavar="FACTOR",
        above=0,
        at_most=1,
    )

    loss: str | Callable[..., Any] = _field(
        "cross_entropy", "the loss function", group="loss and rare classes", choices=LOSSES
    )
    label_smoothing: float = _field(
        0.0, "label smoothing of cross_entropy; 0.1 is usual", group="loss and rare classes", metavar="E", at_least=0
    )
    class_weights: bool = _field(
        False, "weight each image by the inverse of its class's frequency", group="loss and rare classes"
    )

    tta: bool = _field(
        False,
        "score the network on six views of each image, shifted and mirrored",
        group="run",
        option="",
        resume=False,
    )
    checkpoint_steps: int | None = _field(
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
        if not self.validation < 1:
            raise ValueError("validation must be below 1: some images must be left to train on.")
        if not self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be below 1, not {self.label_smoothing}.")
        if self.momentum is not None and self.optimizer not in ("sgd", "nag"):
            raise ValueError(f"momentum goes with the optimizers sgd and nag only, not {self.optimizer}.")
        if self.label_smoothing and not takes(self.loss, "label_smoothing"):
            raise ValueError(f"label_smoothing goes with the loss cross_entropy only, not {_described(self.loss)}.")
        if self.class_weights and not takes(self.loss, "class_weights"):
            raise ValueError("class_weights goes with a loss by name only, not with a function.")

    @property
    def peak_lr(self) -> float:
        """The peak learning rate: `lr`, or its default."""
        return self.lr or (0.01 if self.pretrained else 0.1)

    @property
    def transforms(self) -> list[str]:
        """The names of `augment` that are functions of a single batch; alternating flips depend on the epoch."""
        return [name for name in self.augment if name not in ("alternating_flip", "none")]

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
        """Return a table in Markdown: each field, its value and its meaning.

        Args:
            changed: list only the fields that differ from their defaults.
        """
        rows = [
            f"| `{field.name}` | {_described(getattr(self, field.name))} | {field.metadata['text'].replace('|', ' ')} |"
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


def option_name(field: dataclasses.Field[Any]) -> str:
    """Return the name of a field's option, such as "--batch-size"."""
    return field.metadata["option"] or "--" + field.name.replace("_", "-")


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ValueError if a value is not allowed for a field of `Recipe`."""
    limits = field.metadata
    if "int" in str(field.type).split(" | ") and isinstance(value, (float, np.floating)):
        raise ValueError(f"{field.name} must be a whole number, not {value}.")
    if value is None or callable(value) or isinstance(value, Mapping):
        return
    if limits["choices"] and value not in limits["choices"] and not str(value).startswith(CUSTOM):
        raise ValueError(f"{field.name} must be one of {', '.join(limits['choices'])}, not {value!r}.")
    for name, holds in (("above", _above), ("at_least", _at_least), ("at_most", _at_most)):
        if limits[name] is not None and not holds(value, limits[name]):
            raise ValueError(f"{field.name} must be {name.replace('_', ' ')} {limits[name]}, not {value}.")


def _above(value: float, limit: float) -> bool:
    return limit < value < math.inf


def _at_least(value: float, limit: float) -> bool:
    return limit <= value < math.inf


def _at_most(value: float, limit: float) -> bool:
    return value <= limit


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


RECIPES = {
    # CIFAR-10 to 94 % in the least time; the chapter "Making it fast" explains it. The ideas and, where they fit, the
    # numbers are from Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
    "fast94": Recipe(
        model="fast94",
        num_epochs=13,
        batch_size=1000,
        lr=1.5,
        schedule="linear",
        warmup_epochs=3.0,
        optimizer="nag",
        momentum=0.85,
        wd=0.00133,
        bias_lr=64.0,
        decay_biases=True,
        label_smoothing=0.2,
        lookahead=5,
        augment=("reflect_crop:2", "alternating_flip"),
        small_first=(28, 10),
        validation=0.0,
        precision="auto",
        tta=True,
    )
}

"""Tools of the book's notebooks: their scale, an example model, source code and checks of exercises."""

from __future__ import annotations

import functools
import inspect
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
SCALES = ("smoke", "lesson", "full")


def scale() -> str:
    """Return how much work a notebook should do, from the environment variable `D2LCLS_SCALE`.

    "smoke" takes seconds and only shows that the code runs; "lesson", the default, takes minutes on two cores;
    "full" is the recipe at its real length.

    Raises:
        ValueError: the variable has another value.
    """
    value = os.environ.get("D2LCLS_SCALE", "lesson")
    if value not in SCALES:
        raise ValueError(f"D2LCLS_SCALE must be one of {', '.join(SCALES)}, not {value!r}.")
    return value


def by_scale(smoke: T, lesson: T, full: T) -> T:
    """Return the argument that is named like the current `scale`."""
    return {"smoke": smoke, "lesson": lesson, "full": full}[scale()]


def example_model(network: str = "cnn") -> Path:
    """Return the folder of a model trained on CIFAR-10 as in the chapter on the training loop.

    If the cache does not hold it yet, it is trained for 1, 4 or 12 epochs, depending on the `scale`; the full training
    of the book's CNN takes a few minutes on two cores.

    Args:
        network: name for `models.get_model`, of a network for images of 32 x 32 pixels.

    Returns:
        path of a model folder of form "mxnet", as `deploy.export` writes it, with its accuracy on the test images.
    """
    from d2lcls import data, models, training
    from d2lcls.data.preprocess import Preprocess
    from d2lcls.deploy.comparison import measure_accuracy
    from d2lcls.deploy.exporting import export
    from d2lcls.machine.files import cache_folder
    from d2lcls.machine.temporary import temporary_folder

    import mxnet as mx

    images, test = data.load("cifar10"), data.load("cifar10", "test")
    name = f"{network}-{'sample' if data.is_sample(images) else 'cifar10'}-{scale()}"
    folder = cache_folder() / "models" / name
    if folder.is_dir():
        return folder
    if scale() == "smoke":
        images, test = images.subset(slice(300)), test.subset(slice(300))
    train, valid = data.split_validation(images, 0.1)
    mean, std = data.channel_statistics(train.images)
    mx.random.seed(0)
    net = models.get_model(network, classes=len(images.classes))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f"{folder}.new") as work:
        training.fit(
            net,
            data.Batches(train, 128, mean, std, shuffle=True, augment=data.STANDARD),
            data.Batches(valid, 256, mean, std),
            training.Recipe(num_epochs=by_scale(1, 4, 12), lr=0.1),
            checkpoint_dir=work,
        )
        training.load_checkpoint(Path(work, "best.npz"), net)
        exported = Path(work, "model")
        export(
            net, exported, network, images.classes, Preprocess(32, 32, tuple(mean), tuple(std), "bilinear"), "cifar10"
        )
        measure_accuracy(exported, test)
        try:
            exported.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    return folder


class Source:
    """Source code that a notebook displays as such."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def show_source(function_or_class: Any) -> Source:
    """Return the source of a function or class of the package, to be displayed: readers see the code that runs."""
    return Source(textwrap.dedent(inspect.getsource(function_or_class)).rstrip())


class _NotAnswered(Exception):
    """The reader's function returned `...`, as it does before it is written."""


def check(answer: Any, test: Callable[[Any], Any], hint: str) -> bool:
    """Check an answer to an exercise and print the result.

    Args:
        answer: the reader's value, function or block. There is no answer yet if it is None or ..., or if the function,
            or the `hybrid_forward` of the block, returns ... to the test.
        test: function that gets the answer and returns whether it is right; if it raises, the answer is wrong.
        hint: a sentence that is printed if the answer is wrong.

    Returns:
        whether the answer is right.
    """
    if inspect.isfunction(answer):
        answer = _unless_unwritten(answer)
    elif inspect.isclass(answer):
        block: Any = answer
        answer = type(block.__name__, (block,), {"hybrid_forward": _unless_unwritten(block.hybrid_forward)})
    try:
        if answer is None or answer is ...:
            raise _NotAnswered
        right = bool(test(answer))
    except _NotAnswered:
        print("Not answered yet.")
        return False
    except Exception as error:  # the reader's code may raise anything
        print(f"Not yet: it raises {type(error).__name__}: {error}. {hint}")
        return False
    print("Right." if right else f"Not yet. {hint}")
    return right


def _unless_unwritten(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if result is ...:
            raise _NotAnswered
        return result

    return call

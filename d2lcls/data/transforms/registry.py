"""The transforms by name, as the command line and other configurations write them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

from d2lcls.data.transforms.augment import Transform, colour_jitter, cutout, flip, pad_crop, reflect_crop
from d2lcls.data.transforms.autoaugment import autoaugment
from d2lcls.data.transforms.photographs import random_erasing, random_resized_crop, rotate
from d2lcls.data.transforms.randaugment import randaugment

if TYPE_CHECKING:
    from d2lcls.data.decode import Size

TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "pad_crop": pad_crop,
    "reflect_crop": reflect_crop,
    "flip": flip,
    "cutout": cutout,
    "random_resized_crop": random_resized_crop,
    "rotate": rotate,
    "colour_jitter": colour_jitter,
    "random_erasing": random_erasing,
    "randaugment": randaugment,
    "autoaugment": autoaugment,
}
# Those that a number may follow: what it is, an example, and the function that takes it.
_NUMBERS: dict[str, tuple[str, str, Callable[..., Transform]]] = {
    "pad_crop": ("a whole number of pixels", "2", pad_crop),
    "reflect_crop": ("a whole number of pixels", "2", reflect_crop),
    "cutout": ("a whole number of pixels", "2", cutout),
    "random_resized_crop": (
        "the smallest share of the area",
        "0.35",
        lambda area, size=None: random_resized_crop((area, 1.0), size=size),
    ),
    "rotate": ("a number of degrees", "15", rotate),
    "colour_jitter": ("a strength", "0.4", lambda strength: colour_jitter(strength, strength, strength)),
    "random_erasing": ("a probability", "0.25", random_erasing),
}
PHOTOGRAPH = 64  # pixels; images of at least this side are taken for photographs, not for small images like CIFAR's


def make_transform(text: str, size: Size | None = None) -> Transform:
    """Make the transform that a text such as "flip" or "pad_crop:2" names.

    Args:
        text: a name in `TRANSFORMS`; some may be followed by a colon and a number, see `forms`.
        size: of the result of `random_resized_crop`, as there; no other transform changes the size of images.

    Raises:
        ValueError: the name is unknown, or the number is misplaced or out of range.
    """
    name, colon, number = text.partition(":")
    if name not in TRANSFORMS:
        nearest = difflib.get_close_matches(name, TRANSFORMS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(TRANSFORMS)}."
        raise ValueError(f"Unknown transform {name!r}: {hint}")
    sized = {"size": size} if crops(text) else {}
    if not colon:
        return TRANSFORMS[name](**sized)
    if name not in _NUMBERS:
        raise ValueError(f"{name!r} takes no number (only {', '.join(_NUMBERS)} do), so not {text!r}.")
    needed, example, make = _NUMBERS[name]
    whole = needed.startswith("a whole number")
    if not (number.isascii() and (number.isdigit() if whole else _is_number(number))):
        raise ValueError(f"After {name}: {needed} is needed, as in '{name}:{example}', not {text!r}.")
    try:
        return make(int(number) if whole else float(number), **sized)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def crops(text: str) -> bool:
    """Return whether a text names `random_resized_crop`, for which photographs are decoded with a margin."""
    return text.partition(":")[0] == "random_resized_crop"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def forms() -> str:
    """Return the texts that `make_transform` takes, separated by commas, such as "pad_crop[:PIXELS]"."""
    return ", ".join(
        f"{name}[:{_NUMBERS[name][0].split()[-1].upper()}]" if name in _NUMBERS else name for name in TRANSFORMS
    )


def standard_for(height: int, width: int) -> tuple[str, ...]:
    """Return the names of the transforms that suit most sets of images of a size, in pixels.

    Images of less than 64 pixels on a side are shifted and mirrored, as nearly every CIFAR-10 recipe does. A shift of 4
    pixels changes little at 224: larger images are cropped and scaled by `random_resized_crop`, and mirrored. The
    crops have 35 % of the area or more, as in fastai's training of Imagenette, instead of the 8 % with which networks
    are usually trained on the whole of ImageNet: small crops often miss the object, and show it larger than it is in
    use (Touvron et al., "Fixing the Train-Test Resolution Discrepancy", 2019), which short fine-tuning does not make up
    for.
    """
    return ("random_resized_crop:0.35", "flip") if min(height, width) >= PHOTOGRAPH else ("pad_crop", "flip")

"""The transforms by name, as the command line and other configurations write them."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from d2lcls.data.transforms.augment import Transform, colour_jitter, cutout, flip, pad_crop, reflect_crop
from d2lcls.data.transforms.randaugment import randaugment

TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "pad_crop": pad_crop,
    "reflect_crop": reflect_crop,
    "flip": flip,
    "cutout": cutout,
    "colour_jitter": colour_jitter,
    "randaugment": randaugment,
}
SIZED = ("pad_crop", "reflect_crop", "cutout")  # those that a number of pixels may follow


def make_transform(text: str) -> Transform:
    """Make the transform that a text such as "flip" or "pad_crop:2" names.

    Args:
        text: a name in `TRANSFORMS`; after those in `SIZED` also a colon and a number of pixels.

    Raises:
        ValueError: the name is unknown, or the number is misplaced or out of range.
    """
    name, colon, pixels = text.partition(":")
    if name not in TRANSFORMS:
        nearest = difflib.get_close_matches(name, TRANSFORMS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(TRANSFORMS)}."
        raise ValueError(f"Unknown transform {name!r}: {hint}")
    if not colon:
        return TRANSFORMS[name]()
    if name not in SIZED:
        raise ValueError(f"{name!r} takes no number of pixels (only {', '.join(SIZED)} do), so not {text!r}.")
    if not (pixels.isascii() and pixels.isdigit()):
        raise ValueError(f"After {name}: a whole number of pixels is needed, as in '{name}:2', not {text!r}.")
    return TRANSFORMS[name](int(pixels))

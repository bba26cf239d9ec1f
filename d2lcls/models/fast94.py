"""The network of the recipe fast94: six convolutions behind a fixed whitening layer, made for a short training.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498, 2024), after Page's "How to Train
Your ResNet" (2018) and tysam-code's hlb-CIFAR10 (2023). Comments name what is changed for a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from mxnet.gluon import nn

if TYPE_CHECKING:
    from d2lcls.data.batches import Batches

PATCH = 3  # side of the patches that are whitened, pixels; 2 in the source
SIDE = 32  # of the images, pixels
FILTERS = 32  # oneDNN's fast kernels take 16 channels at a time; 24 in the source, which took 1.4 times as long


class Fast94(gluon.HybridBlock):
    """A convolutional network for 32 x 32 images: whitening, three groups of two convolutions, one dense layer.

    A group is [convolution, pooling by 2, normalisation, GELU, convolution, normalisation, GELU]; with other numbers of
    convolutions, its last three layers are repeated or left out. The normalisation has no scale, since the next layer
    can scale as well. The first layer is not trained: `whiten` sets it from images. A convolution begins as the
    identity on as many channels as it has inputs, so that the image reaches the deepest layer from the first step; its
    other filters are drawn. The logits are divided by 9, so that they begin small.

    Args:
        classes: number of logits.
        widths: channels of the three groups.
        convolutions: their number in each group, 1 or more.
        kernels: side of the filters of each group, an odd number of pixels.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (64, 256, 256),
        convolutions: Sequence[int] = (2, 2, 2),
        kernels: Sequence[int] = (3, 3, 3),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.whitening = nn.Conv2D(FILTERS, PATCH, use_bias=False, in_channels=3, weight_initializer=Drawn())
            self.whitening.weight.grad_req, self.whitening.weight.lr_mult = "null", 0.0  # frozen for good
            self.features = nn.HybridSequential()
            self.features.add(nn.GELU())
            for before, width, number, kernel in zip((FILTERS, *widths), widths, convolutions, kernels):
                for index in range(number):
                    self.features.add(_convolution(width, kernel, width if index else before))
                    if index == 0:
                        self.features.add(nn.MaxPool2D(2))
                    self.features.add(_normalisation(width), nn.GELU())
            self.features.add(nn.MaxPool2D(3))
            self.output = nn.Dense(classes, use_bias=False, weight_initializer=Drawn())

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return logits (N, classes) for images x (N, 3, 32, 32)."""
        return self.output(self.features(self.whitening(x))) / 9


@dataclass(frozen=True)
class Architecture:
    """The shape of a `Fast94`: channels, number of convolutions and side of the filters of its three groups.

    Raises:
        ValueError: it is no shape of such a network.
    """

    widths: tuple[int, int, int] = (64, 256, 256)
    convolutions: tuple[int, int, int] = (2, 2, 2)
    kernels: tuple[int, int, int] = (3, 3, 3)

    def __post_init__(self) -> None:
        if min(*self.widths, *self.convolutions, *self.kernels) < 1 or any(side % 2 == 0 for side in self.kernels):
            raise ValueError(f"widths and convolutions must be 1 or more, and kernels odd, not {self.name}.")

    @property
    def name(self) -> str:
        """Its name for `get_model`: "fast94", and what differs from that network."""
        parts = [
            f"-{field.name[0]}{'x'.join(map(str, getattr(self, field.name)))}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return "fast94" + "".join(parts)

    @classmethod
    def named(cls, name: str) -> Architecture:
        """Return the architecture of a name.

        Raises:
            ValueError: it is no name of this family.
        """
        number = r"([1-9]\d{0,3})"
        part = "x".join([number] * 3)
        match = re.fullmatch(f"fast94(?:-w{part})?(?:-c{part})?(?:-k{part})?", name, re.ASCII)
        if not match:
            raise ValueError(
                f"{name!r} must be fast94 with three widths, numbers of convolutions or kernels, "
                "such as fast94-w64x192x256-c1x2x3-k3x3x5."
            )
        numbers = [tuple(map(int, match.groups()[i : i + 3])) if match[i + 1] else None for i in (0, 3, 6)]
        return cls(**{field.name: value for field, value in zip(fields(cls), numbers) if value})  # type: ignore[arg-type]

    def make(self, classes: int = 10) -> Fast94:
        """Return a network of this shape, not yet initialised."""
        return Fast94(classes, self.widths, self.convolutions, self.kernels)

    def multiply_adds(self, classes: int = 10) -> int:
        """Return the multiply-adds for one image of 32 x 32 pixels, as `summarize` counts them."""
        return int(multiply_adds(self.widths, self.convolutions, self.kernels, classes))


def multiply_adds(
    widths: tuple[float, ...], convolutions: tuple[int, ...], kernels: tuple[int, ...], classes: int = 10
) -> float:
    """Return the multiply-adds of a `Fast94` for one image; widths may be fractions."""
    side, before = SIDE - PATCH + 1, float(FILTERS)
    total = 3 * PATCH**2 * before * side**2
    for width, number, kernel in zip(widths, convolutions, kernels):
        total += kernel**2 * before * width * side**2
        side //= 2  # pooling follows the first convolution
        total += (number - 1) * kernel**2 * width**2 * side**2
        before = width
    return total + before * classes


class Drawn(mx.init.Initializer):
    """Draw weights uniformly from -1 to 1, divided by the root of the number of inputs, as PyTorch does by default."""

    def _init_weight(self, name, array):
        bound = np.prod(array.shape[1:]) ** -0.5
        mx.random.uniform(-bound, bound, out=array)


class Dirac(Drawn):
    """Let the first filters pass their channel on unchanged; the others are drawn.

    Source: Zagoruyko and Komodakis, "DiracNets" (2017).
    """

    def _init_weight(self, name, array):
        super()._init_weight(name, array)
        weights, size = array.asnumpy(), array.shape[2]
        same = np.arange(min(array.shape[:2]))
        weights[same] = 0
        weights[same, same, size // 2, size // 2] = 1
        array[:] = weights


def whiten(net: Fast94, x: np.ndarray, epsilon: float = 5e-4) -> None:
    """Set the first layer so that its outputs for small patches are uncorrelated and of variance one.

    Its filters are the directions in which 3 x 3 patches vary most (their principal components), each divided by the
    root of the variance along it, and each with both signs, since GELU lets only one side through.

    Args:
        net: initialised `Fast94`; its first layer is changed.
        x: float32 (N, 3, H, W), normalised images; the first 5,000 are used.
        epsilon: added to each variance, so that noise is not amplified.

    Raises:
        ValueError: the images are of another shape.
    """
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < PATCH:
        raise ValueError(f"Expected images of shape (N, 3, H, W) of at least {PATCH} pixels a side, got {x.shape}.")
    covariance = np.zeros((3 * PATCH * PATCH,) * 2)
    # (N, 3, H', W', P, P); NumPy's own types allow only one axis.
    patches = np.lib.stride_tricks.sliding_window_view(x[:5000], (PATCH,) * 2, (2, 3))  # type: ignore[call-overload]
    for part in np.array_split(patches, -(-len(patches) // 500)):
        rows = part.transpose(0, 2, 3, 1, 4, 5).reshape(-1, len(covariance)).astype(np.float64)
        covariance += rows.T @ rows / (rows.shape[0] / len(part) * len(patches))
    variances, directions = np.linalg.eigh(covariance)  # in ascending order
    strongest = (directions / np.sqrt(variances + epsilon)).T[::-1][: FILTERS // 2]
    filters = np.concatenate([strongest, -strongest]).reshape(FILTERS, 3, PATCH, PATCH)
    net.whitening.weight.set_data(nd.array(filters))


def initialise_from_data(net: gluon.Block, batches: Batches) -> None:
    """Set the weights that depend on the training images; to be called once, before training.

    Args:
        net: initialised network. A `Fast94` is whitened, see `whiten`; other networks are left as they are.
        batches: the training batches; their first 5,000 images are used.

    Raises:
        ValueError: the images are not of a shape that the network takes.
    """
    if isinstance(net, Fast94):
        whiten(net, batches.normalise(batches.data.images[:5000]))


def _convolution(width, kernel, before):
    return nn.Conv2D(width, kernel, padding=kernel // 2, use_bias=False, in_channels=before, weight_initializer=Dirac())


def _normalisation(width):
    # A short memory (0.9 is usual), because the whole training is short.
    return nn.BatchNorm(scale=False, momentum=0.6, in_channels=width)

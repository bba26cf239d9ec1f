"""The book's own convolutional network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mxnet import gluon, nd
from mxnet.gluon import nn


class GlobalMean(gluon.HybridBlock):
    """Average every channel over all its pixels: (N, C, H, W) -> (N, C), or (N, C, 1, 1) with keepdims.

    It computes what `nn.GlobalAvgPool2D` computes. That layer returns (N, C, 1, 1), a shape whose memory
    layout oneDNN cannot always tell from another; where it cannot, as in residual networks, the backward pass
    falls back to a reference kernel that costs up to half the training time. A mean over two axes never does.
    """

    def __init__(self, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keepdims = keepdims

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return the mean over the pixels; x is (N, C, H, W)."""
        return F.mean(x, axis=(2, 3), keepdims=self.keepdims)


class SmallCNN(gluon.HybridBlock):
    """A small convolutional network: stages of convolution, normalisation and ReLU, each halved by pooling.

    Each stage is [3x3 convolution, max-pooling by 2, batch normalisation, ReLU]; the last does not pool.
    The mean over all remaining pixels and one dense layer turn the final feature maps into logits, so that any input
    of at least 2 ** (stages - 1) pixels a side works, with any number of channels; shapes are inferred from
    the first batch. Pooling comes before normalisation and ReLU because the result is much the same
    (the larger of two numbers stays the larger) and leaves them a quarter of the pixels.

    Args:
        classes: number of logits.
        widths: channels of each stage; its length is the number of stages.

    Raises:
        ValueError: no class or no stage is asked for; or, when called, the images have another number of axes
            or channels than the network, or are too small for its stages.
    """

    def __init__(self, classes: int = 10, widths: Sequence[int] = (32, 64, 128, 256), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classes < 1 or not widths:
            raise ValueError(
                f"Expected classes of 1 or more and at least one width, not classes={classes}, widths={widths}."
            )
        self.smallest = 2 ** (len(widths) - 1)
        with self.name_scope():
            self.features = nn.HybridSequential()
            for stage, width in enumerate(widths):
                self.features.add(nn.Conv2D(width, kernel_size=3, padding=1, use_bias=False))
                if stage < len(widths) - 1:
                    self.features.add(nn.MaxPool2D(pool_size=2, strides=2))
                self.features.add(nn.BatchNorm(), nn.Activation("relu"))
            self.features.add(GlobalMean())
            self.output = nn.Dense(classes)

    def forward(self, x: Any, *args: Any) -> Any:
        """Check the shape of a batch before MXNet does, whose message would be a page of C++."""
        if isinstance(x, nd.NDArray):
            channels = self.features[0].weight.shape[1]  # 0 until the first batch
            if x.ndim != 4 or channels not in (0, x.shape[1]):
                raise ValueError(
                    f"Expected images of shape (N, {channels or 'C'}, H, W), got {x.shape}. "
                    "Images of shape (N, H, W, C) must be transposed first, as `Batches` does."
                )
            if min(x.shape[2:]) < self.smallest:
                raise ValueError(
                    f"Expected images of at least {self.smallest} x {self.smallest} pixels, "
                    f"got {x.shape[2]} x {x.shape[3]}. Enlarge them or leave out a stage."
                )
        return super().forward(x, *args)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return logits (N, classes) for images x (N, C, H, W)."""
        return self.output(self.features(x))

"""EfficientNet, a family of networks scaled in width, depth and image size together (Tan and Le, 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from d2lcls.machine.gluon import blocks_of, clear_cache
from d2lcls.models.cnn import GlobalMean

from mxnet import gluon, nd
from mxnet.gluon import nn

# Each stage at width 1 and depth 1: repeats, kernel, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Scale:
    """What distinguishes the members of the family; `size` is the side of the images in pixels."""

    width: float
    depth: float
    size: int
    dropout: float


class Conv(gluon.HybridBlock):
    """A convolution without bias whose output has ceil(input / stride) pixels a side.

    PyTorch's networks pad all sides by k // 2 pixels. TensorFlow's ("SAME") pad as little as possible and put the
    odd pixel at the end, so that a stride of 2 on an even side samples the pixels 1, 3, 5 ... where PyTorch samples
    0, 2, 4 ... MXNet can only pad both sides alike; putting a row of zeros before the kernel has the same effect.

    Args:
        channels, in_channels: of the output and the input.
        kernel, stride: pixels.
        groups: 1, or `in_channels` for a depthwise convolution.
        same: pad as TensorFlow does.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int,
        in_channels: int,
        groups: int = 1,
        same: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel, self.stride, self.channels, self.groups = kernel, stride, channels, groups
        self.depends_on_size = same and stride == 2
        self.shift = (int(self.depends_on_size),) * 2  # rows and columns of zeros to put before the kernel
        with self.name_scope():
            self.weight = self.params.get("weight", shape=(channels, in_channels // groups, kernel, kernel))

    def set_input_size(self, height: int, width: int) -> tuple[int, int, bool]:
        """Pad for inputs of this size; return the height and width of the output, and whether `shift` changed."""
        before = self.shift
        if self.depends_on_size:
            self.shift = (1 - height % 2, 1 - width % 2)
        return -(-height // self.stride), -(-width // self.stride), self.shift != before

    def hybrid_forward(self, F: Any, x: Any, weight: Any) -> Any:
        """Convolve x (N, C, H, W)."""
        down, right = self.shift
        if down or right:
            weight = F.pad(weight, mode="constant", pad_width=(0, 0, 0, 0, down, 0, right, 0))
        return F.Convolution(
            x,
            weight,
            kernel=(self.kernel + down, self.kernel + right),
            stride=(self.stride,) * 2,
            pad=(self.kernel // 2,) * 2,
            num_filter=self.channels,
            num_group=self.groups,
            no_bias=True,
        )


class ReLU6(gluon.HybridBlock):
    """min(max(x, 0), 6): values are cut off at 6, which keeps their range small enough for 8 bits.

    Args:
        by_clip: compute it by one `clip`, or by a ReLU and a minimum, which train about 1.5 times faster, because
            oneDNN has a backward pass for ReLU, but not for `clip`. `fusion.fused.trace` turns both into `clip`,
            which oneDNN can fuse with the convolution before it.

    Attributes:
        bounded: False makes it a plain ReLU; see `slow_layers.drop_bounds`.
    """

    def __init__(self, by_clip: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by_clip, self.bounded = by_clip, True

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return an array of x's shape."""
        if self.by_clip and self.bounded:
            return F.clip(x, 0, 6)
        y = F.Activation(x, act_type="relu")
        return F.minimum(y, 6) if self.bounded else y


class SqueezeExcite(gluon.HybridBlock):
    """Squeeze and excitation (Hu et al., 2018): weight every channel by a factor computed from the whole image.

    Args:
        channels: of input and output.
        squeezed: channels between the two 1x1 convolutions.
    """

    def __init__(self, channels: int, squeezed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.reduce = nn.Conv2D(squeezed, 1, in_channels=channels)
            self.act = nn.Swish()
            self.expand = nn.Conv2D(channels, 1, in_channels=squeezed)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return x (N, C, H, W) with every channel scaled by a factor between 0 and 1."""
        factors = F.sigmoid(self.expand(self.act(self.reduce(F.mean(x, axis=(2, 3), keepdims=True)))))
        return F.broadcast_mul(x, factors)


class Block(gluon.HybridBlock):
    """An inverted bottleneck: expand, filter each channel separately, project (Sandler et al., MobileNetV2, 2018).

    Args:
        in_channels, channels: of the input and the output; if they are equal and `stride` is 1, the input is added.
        kernel, stride: of the depthwise convolution.
        expansion: factor by which the inside has more channels than the input.
        lite: ReLU6 and no squeeze-and-excite.
        same, epsilon: as for `EfficientNet`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        expansion: int,
        lite: bool,
        same: bool,
        epsilon: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.adds = stride == 1 and in_channels == channels
        wide = in_channels * expansion
        with self.name_scope():
            self.expand = None
            if expansion > 1:
                self.expand = layer(wide, 1, 1, in_channels, epsilon=epsilon, act=activation(lite, in_channels))
            self.depthwise = layer(
                wide, kernel, stride, wide, groups=wide, same=same, epsilon=epsilon, act=activation(lite, channels)
            )
            self.squeeze = None if lite else SqueezeExcite(wide, max(1, in_channels // 4))
            self.project = layer(channels, 1, 1, wide, epsilon=epsilon)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return maps (N, channels, H / stride, W / stride) for x (N, in_channels, H, W)."""
        y = self.expand(x) if self.expand else x
        y = self.depthwise(y)
        y = self.squeeze(y) if self.squeeze else y
        y = self.project(y)
        return x + y if self.adds else y


def layer(
    channels: int,
    kernel: int,
    stride: int,
    in_channels: int,
    groups: int = 1,
    same: bool = False,
    epsilon: float = 1e-3,
    act: gluon.HybridBlock | None = None,
) -> nn.HybridSequential:
    """Return a convolution with its normalisation and activation."""
    sequence = nn.HybridSequential()
    sequence.add(
        Conv(channels, kernel, stride, in_channels, groups, same),
        nn.BatchNorm(momentum=0.99, epsilon=epsilon, in_channels=channels),
    )
    if act:
        sequence.add(act)
    return sequence


def activation(lite: bool, neighbour: int = 32) -> gluon.HybridBlock:
    """Return the activation between two layers; `neighbour` is the number of channels on the block's outer side.

    If that is no multiple of 16, oneDNN keeps the neighbour's arrays in another layout, and BatchNorm's backward pass
    falls back to a reference kernel that takes three quarters of a whole training step. `clip` happens to prevent it.
    """
    return ReLU6(by_clip=neighbour % 16 != 0) if lite else nn.Swish()


class EfficientNet(gluon.HybridBlock):
    """An EfficientNet: a stem, seven stages of inverted bottlenecks, a head, the mean over all pixels, a dense layer.

    `features` holds these in order, up to the mean and dropout; `output` is the dense layer.

    Args:
        scale: `Scale`.
        classes: number of logits.
        lite: EfficientNet-Lite: ReLU6 for swish, no squeeze-and-excite, stem and head as at width 1 and depth 1.
        same: pad as TensorFlow does; networks whose weights come from there need it.
        epsilon: of the normalisation; 1e-3 in TensorFlow, 1e-5 in PyTorch.

    Raises:
        ValueError: when called with anything but a batch of colour images.
    """

    def __init__(
        self,
        scale: Scale,
        classes: int = 1000,
        lite: bool = False,
        same: bool = True,
        epsilon: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if classes < 1:
            raise ValueError(f"Expected classes of 1 or more, not {classes}.")
        channels = 32 if lite else round_channels(32, scale.width)
        last = 1280 if lite else round_channels(1280, scale.width)
        with self.name_scope():
            self.features = nn.HybridSequential()
            self.features.add(layer(channels, 3, 2, 3, same=same, epsilon=epsilon, act=activation(lite)))
            for number, (repeats, kernel, stride, expansion, wide) in enumerate(STAGES):
                wide = round_channels(wide, scale.width)
                unscaled = lite and number in (0, len(STAGES) - 1)
                stage = nn.HybridSequential()
                for index in range(repeats if unscaled else math.ceil(repeats * scale.depth)):
                    stage.add(Block(channels, wide, kernel, 1 if index else stride, expansion, lite, same, epsilon))
                    channels = wide
                self.features.add(stage)
            self.features.add(
                layer(last, 1, 1, channels, epsilon=epsilon, act=activation(lite)),
                GlobalMean(),
                nn.Dropout(scale.dropout),
            )
            self.output = nn.Dense(classes, in_units=last)
        self.set_image_size(scale.size, scale.size)

    def set_image_size(self, height: int, width: int) -> None:
        """Set the padding of every convolution for images of this size; it matters for TensorFlow's padding only."""
        changed = False
        for conv in blocks_of(self, Conv):
            height, width, shifted = conv.set_input_size(height, width)
            changed |= shifted
        if changed:
            clear_cache(self)

    def forward(self, x: Any, *args: Any) -> Any:
        """Check the shape of a batch, set the padding for its size and compute the logits."""
        if isinstance(x, nd.NDArray):
            if x.ndim != 4 or x.shape[1] != 3:
                raise ValueError(f"Expected colour images of shape (N, 3, H, W), got {x.shape}.")
            self.set_image_size(*x.shape[2:])
        return super().forward(x, *args)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return logits (N, classes) for images x (N, 3, H, W)."""
        return self.output(self.features(x))


def set_image_size(net: gluon.Block, height: int, width: int) -> None:
    """Prepare a network for images of one size before it is traced or split.

    An `EfficientNet` sets its padding, which depends on the size where it is TensorFlow's; called with a batch it does
    so itself, but a traced graph keeps the padding of the last size. Other networks are left as they are.

    Args:
        net: any network.
        height, width: of the images, pixels.
    """
    if isinstance(net, EfficientNet):
        net.set_image_size(height, width)


def round_channels(channels: int, width: float) -> int:
    """Scale a number of channels and round it to a multiple of 8, down by a tenth at most."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded

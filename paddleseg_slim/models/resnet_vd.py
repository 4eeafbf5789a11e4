"""ResNet-vd: ResNet-D with a deep stem and average pooling in its shortcuts (He et al. 2018, arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import BACKBONES

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks in each stage, by the depth of the net."""

DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}
"""Dilation of each stage, by the output stride: a dilated stage does not halve the resolution."""


class ResNet_vd(nn.Layer):
    """ResNet-vd without its classifier.

    Args:
        layers: depth of the net, a key of `BLOCKS`.
        output_stride: how much smaller the last features are than the image: 8, 16 or 32.
        multi_grid: further dilation of each block of the last stage.
        in_channels: channels of the image.
        pretrained: path or URL of weights of the backbone.
        data_format: ``NCHW`` or ``NHWC``.

    Attributes:
        feat_channels: channels of the four feature maps.

    Raises:
        UserError: an argument has a value that there is no net for.
    """

    def __init__(
        self,
        layers: int = 50,
        output_stride: int = 8,
        multi_grid: Sequence[int] = (1, 1, 1),
        in_channels: int = 3,
        pretrained: str | None = None,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        for name, value, table in (("layers", layers, BLOCKS), ("output_stride", output_stride, DILATIONS)):
            if value not in table:
                raise UserError(f"ResNet_vd: `{name}` is {value}.", f"Use one of {', '.join(map(str, table))}.")
        self.blocks = BLOCKS[layers]
        if len(multi_grid) < self.blocks[3]:
            raise UserError(
                f"ResNet_vd: `multi_grid` has {len(multi_grid)} values for {self.blocks[3]} blocks.",
                "Give one dilation for each block of the last stage.",
            )
        block = BottleneckBlock if layers >= 50 else BasicBlock
        widths = (64, 128, 256, 512)
        self.feat_channels = [width * block.expansion for width in widths]
        self.conv1_1 = ConvBNLayer(in_channels, 32, 3, stride=2, data_format=data_format)
        self.conv1_2 = ConvBNLayer(32, 32, 3, data_format=data_format)
        self.conv1_3 = ConvBNLayer(32, 64, 3, data_format=data_format)
        self.pool2d_max = nn.MaxPool2D(3, stride=2, padding=1, data_format=data_format)
        channels = 64
        for stage, (width, count) in enumerate(zip(widths, self.blocks)):
            for index in range(count):
                dilation = DILATIONS[output_stride][stage] * (multi_grid[index] if stage == 3 else 1)
                stride = 2 if index == 0 and stage > 0 and dilation == 1 else 1
                layer = block(channels, width, stride, dilation, project=index == 0, data_format=data_format)
                self.add_sublayer(f"bb_{stage}_{index}", layer)
                channels = width * block.expansion
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> features at 1/4, 1/8, 1/16 and 1/32, the last ones larger with a smaller stride."""
        x = self.pool2d_max(self.conv1_3(self.conv1_2(self.conv1_1(x))))
        features = []
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                x = getattr(self, f"bb_{stage}_{index}")(x)
            features.append(x)
        return features


class ConvBNLayer(nn.Layer):
    """Convolution, BatchNorm and, if ``relu``, ReLU; with ``pool`` after a 2x2 mean of stride 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        pool: bool = False,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        self._conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias_attr=False,
            data_format=data_format,
        )
        self._batch_norm = nn.BatchNorm2D(out_channels, data_format=data_format)
        self.relu = relu
        self.pool = pool
        self.data_format = data_format

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        if self.pool:
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True, data_format=self.data_format)
        x = self._batch_norm(self._conv(x))
        return F.relu(x) if self.relu else x


class Residual(nn.Layer):
    """Convolutions in a row beside a shortcut, added.

    Args:
        convs: the convolutions.
        short: what fits the shortcut to them; None where it fits as it is.
    """

    expansion = 1

    def __init__(self, convs: Sequence[ConvBNLayer], short: ConvBNLayer | None) -> None:
        super().__init__()
        self.length = len(convs)
        for index, conv in enumerate(convs):
            self.add_sublayer(f"conv{index}", conv)
        self.project = short is not None
        if short is not None:
            self.short = short

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, width * expansion, H', W']``."""
        residual = x
        for index in range(self.length):
            residual = getattr(self, f"conv{index}")(residual)
        return F.relu((self.short(x) if self.project else x) + residual)


def _short(in_channels: int, out_channels: int, stride: int, project: bool, data_format: str) -> ConvBNLayer | None:
    """The shortcut of the first block of a stage: a 1x1 convolution, after a mean where the resolution is halved."""
    if not project:
        return None
    return ConvBNLayer(in_channels, out_channels, 1, relu=False, pool=stride == 2, data_format=data_format)


class BottleneckBlock(Residual):
    """1x1, 3x3, 1x1 convolutions, the last with four times the width."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, project: bool, data_format: str
    ) -> None:
        convs = [
            ConvBNLayer(in_channels, width, 1, data_format=data_format),
            ConvBNLayer(width, width, 3, stride, dilation, data_format=data_format),
            ConvBNLayer(width, width * 4, 1, relu=False, data_format=data_format),
        ]
        super().__init__(convs, _short(in_channels, width * 4, stride, project, data_format))


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, project: bool, data_format: str
    ) -> None:
        convs = [
            ConvBNLayer(in_channels, width, 3, stride, dilation, data_format=data_format),
            ConvBNLayer(width, width, 3, dilation=dilation, relu=False, data_format=data_format),
        ]
        super().__init__(convs, _short(in_channels, width, stride, project, data_format))


def _variant(layers: int) -> Callable[..., ResNet_vd]:
    def build(
        output_stride: int = 8,
        multi_grid: Sequence[int] = (1, 1, 1),
        in_channels: int = 3,
        pretrained: str | None = None,
        data_format: str = "NCHW",
    ) -> ResNet_vd:
        return ResNet_vd(layers, output_stride, multi_grid, in_channels, pretrained, data_format)

    build.__name__ = build.__qualname__ = f"ResNet{layers}_vd"
    build.__doc__ = f"Build the ResNet-vd of {layers} layers; arguments as of `ResNet_vd`."
    return BACKBONES.register()(build)


ResNet18_vd, ResNet34_vd, ResNet50_vd, ResNet101_vd = (_variant(layers) for layers in BLOCKS)

"""STDC: short-term dense concatenation networks (Fan et al. 2021, "Rethinking BiSeNet", arXiv:2104.13188)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.models.weights import init_convs, load_pretrained
from paddleseg_slim.registry import BACKBONES


class STDCNet(nn.Layer):
    """STDC without its classifier.

    Args:
        base: channels of the second stage; the others are multiples.
        layers: blocks of stages 3, 4 and 5.
        block_num: convolutions of a block, 2 or more.
        type: how a block joins its convolutions: ``cat``. (PaddleSeg names ``add`` too, but cannot build it.)
        relative_lr: learning rate of the backbone, relative to the optimizer's.
        in_channels: channels of the image.
        pretrained: path or URL of weights of the backbone.

    Attributes:
        feat_channels: channels of the five feature maps.

    Raises:
        UserError: ``type`` or ``block_num`` is none that there is a net for.
    """

    def __init__(
        self,
        base: int = 64,
        layers: Sequence[int] = (4, 5, 3),
        block_num: int = 4,
        type: str = "cat",
        relative_lr: float = 1.0,
        in_channels: int = 3,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if type != "cat":
            raise UserError(f"STDCNet: `type` is {type!r}.", "Use cat: there are no weights of another kind.")
        if block_num < 2:
            raise UserError(f"STDCNet: `block_num` is {block_num}.", "A block has 2 convolutions or more.")
        self.feat_channels = [base // 2, base, base * 4, base * 8, base * 16]
        self.layers = tuple(layers)
        steps: list[nn.Layer] = [
            ConvBNReLU(in_channels, base // 2, 3, 2, relative_lr),
            ConvBNReLU(base // 2, base, 3, 2, relative_lr),
        ]
        channels = base
        for count, width in zip(self.layers, self.feat_channels[2:]):
            for index in range(count):
                steps.append(CatBottleneck(channels, width, block_num, 2 if index == 0 else 1, relative_lr))
                channels = width
        self.features = nn.Sequential(*steps)
        init_convs(self, nn.initializer.Normal(std=0.001))
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> features at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        features = []
        step = 0
        for count in (1, 1, *self.layers):
            for _ in range(count):
                x = self.features[step](x)
                step += 1
            features.append(x)
        return features


class ConvBNReLU(nn.Layer):
    """Convolution without bias, BatchNorm and ReLU, all with their own learning rate."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, relative_lr: float = 1.0
    ) -> None:
        super().__init__()
        self.conv, self.bn = _conv_bn(in_channels, out_channels, kernel_size, stride, 1, relative_lr)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        return F.relu(self.bn(self.conv(x)))


class CatBottleneck(nn.Layer):
    """Convolutions in a row, each with about half the channels of the one before, all outputs joined.

    With stride 2 the first output is halved twice: by a depthwise convolution on its way to the second convolution, by
    a mean on its way out.
    """

    def __init__(self, in_channels: int, out_channels: int, block_num: int, stride: int, relative_lr: float) -> None:
        super().__init__()
        # 1/2, 1/4, ..., and the last as many as the one before, so that they add up to out_channels
        widths = [out_channels >> min(index + 1, block_num - 1) for index in range(block_num)]
        self.stride = stride
        self.conv_list = nn.LayerList()
        if stride == 2:
            self.avd_layer = nn.Sequential(*_conv_bn(widths[0], widths[0], 3, 2, widths[0], relative_lr))
        for index, (before, width) in enumerate(zip([in_channels, *widths], widths)):
            self.conv_list.append(ConvBNReLU(before, width, 1 if index == 0 else 3, relative_lr=relative_lr))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        first = x = self.conv_list[0](x)
        if self.stride == 2:
            x = self.avd_layer(x)
            first = F.avg_pool2d(first, 3, 2, padding=1)
        outputs = [first]
        for conv in self.conv_list[1:]:
            x = conv(x)
            outputs.append(x)
        return paddle.concat(outputs, axis=1)


def _conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, relative_lr: float
) -> tuple[nn.Conv2D, nn.BatchNorm2D]:
    rate = paddle.ParamAttr(learning_rate=relative_lr)
    conv = nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        kernel_size // 2,
        groups=groups,
        weight_attr=rate,
        bias_attr=False,
    )
    return conv, nn.BatchNorm2D(out_channels, weight_attr=rate, bias_attr=rate)


def _variant(name: str, layers: tuple[int, int, int]) -> Callable[..., STDCNet]:
    def build(
        block_num: int = 4,
        type: str = "cat",
        relative_lr: float = 1.0,
        in_channels: int = 3,
        pretrained: str | None = None,
    ) -> STDCNet:
        return STDCNet(64, layers, block_num, type, relative_lr, in_channels, pretrained)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build {name}, with {layers} blocks; arguments as of `STDCNet`."
    return BACKBONES.register()(build)


STDC1 = _variant("STDC1", (2, 2, 2))
STDC2 = _variant("STDC2", (4, 5, 3))

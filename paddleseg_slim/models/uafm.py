"""Unified attention fusion modules: fine and coarse features, weighted against each other (PP-LiteSeg, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.layers import ConvBN, ConvBNReLU, SeparableConvBNReLU, spatial_size


class ConvBNLeakyReLU(ConvBN):
    """Convolution, BatchNorm and leaky ReLU (slope 0.01)."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        return F.leaky_relu(super().forward(x))


class UAFM(nn.Layer):
    """Adds fine features and resized coarse ones; the base of those that weight them.

    Args:
        x_ch: channels of the fine features.
        y_ch: channels of the coarse features.
        out_ch: channels of the output.
        ksize: kernel size of the convolution of the fine features.
        resize_mode: how the coarse features are resized, a mode of ``F.interpolate``.
        separable: whether the convolutions are depthwise separable.
    """

    def __init__(
        self,
        x_ch: int,
        y_ch: int,
        out_ch: int,
        ksize: int = 3,
        resize_mode: str = "bilinear",
        separable: bool = False,
    ) -> None:
        super().__init__()
        block = SeparableConvBNReLU if separable else ConvBNReLU
        self.conv_x = block(x_ch, y_ch, ksize, padding=ksize // 2, bias_attr=False)
        self.conv_out = block(y_ch, out_ch, 3, padding=1, bias_attr=False)
        self.resize_mode = resize_mode

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fine ``[N, x, H, W]`` and coarse ``[N, y, h, w]`` -> ``[N, out, H, W]``."""
        x = self.conv_x(x)
        y = F.interpolate(y, spatial_size(x), mode=self.resize_mode)
        return self.conv_out(self.fuse(x, y))

    def fuse(self, x: Tensor, y: Tensor) -> Tensor:
        """Join two tensors of the same shape."""
        return x + y


class ChannelUAFM(UAFM):
    """Weights each channel by means, and unless ``mean_only`` by maxima, over the positions."""

    def __init__(
        self,
        x_ch: int,
        y_ch: int,
        out_ch: int,
        ksize: int = 3,
        resize_mode: str = "bilinear",
        mean_only: bool = False,
    ) -> None:
        super().__init__(x_ch, y_ch, out_ch, ksize, resize_mode)
        self.mean_only = mean_only
        self.conv_xy_atten = nn.Sequential(
            ConvBNLeakyReLU((2 if mean_only else 4) * y_ch, y_ch // 2, 1, bias_attr=False),
            ConvBN(y_ch // 2, y_ch, 1, bias_attr=False),
        )

    def fuse(self, x: Tensor, y: Tensor) -> Tensor:
        """Join two tensors of the same shape."""
        summary = [tensor.mean(axis=[2, 3], keepdim=True) for tensor in (x, y)]
        if not self.mean_only:
            summary += [tensor.max(axis=[2, 3], keepdim=True) for tensor in (x, y)]
        weight = F.sigmoid(self.conv_xy_atten(paddle.concat(summary, axis=1)))
        return x * weight + y * (1 - weight)


class SpatialUAFM(UAFM):
    """Weights each position by the mean, and unless ``mean_only`` by the maximum, over the channels.

    ``keep_scale`` holds the constant 1 of the complement as an untrained parameter, as PaddleSeg's weights do.
    """

    def __init__(
        self,
        x_ch: int,
        y_ch: int,
        out_ch: int,
        ksize: int = 3,
        resize_mode: str = "bilinear",
        separable: bool = False,
        mean_only: bool = False,
        keep_scale: bool = False,
    ) -> None:
        super().__init__(x_ch, y_ch, out_ch, ksize, resize_mode, separable)
        self.mean_only = mean_only
        self.conv_xy_atten = nn.Sequential(
            ConvBNReLU(2 if mean_only else 4, 2, 3, padding=1, bias_attr=False),
            ConvBN(2, 1, 3, padding=1, bias_attr=False),
        )
        self.keep_scale = keep_scale
        if keep_scale:
            self._scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
            self._scale.stop_gradient = True

    def fuse(self, x: Tensor, y: Tensor) -> Tensor:
        """Join two tensors of the same shape."""
        summary = []
        for tensor in (x, y):
            summary.append(tensor.mean(axis=1, keepdim=True))
            if not self.mean_only:
                summary.append(tensor.max(axis=1, keepdim=True))
        weight = F.sigmoid(self.conv_xy_atten(paddle.concat(summary, axis=1)))
        return x * weight + y * ((self._scale if self.keep_scale else 1) - weight)


FUSIONS: dict[str, Callable[..., UAFM]] = {
    "UAFM": UAFM,
    "UAFM_ChAtten": ChannelUAFM,
    "UAFM_ChAtten_S": partial(ChannelUAFM, mean_only=True),
    "UAFM_SpAtten": partial(SpatialUAFM, keep_scale=True),
    "UAFM_SpAtten_S": partial(SpatialUAFM, mean_only=True),
    "UAFMMobile": partial(UAFM, separable=True),
    "UAFMMobile_SpAtten": partial(SpatialUAFM, separable=True),
}
"""The modules by PaddleSeg's names."""

"""Attention blocks that backbones can be built with."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.layers import spatial_size
from paddleseg_slim.models.weights import init_convs


class PolarizedSelfAttentionModule(nn.Layer):
    """Polarized self-attention, the parallel form: one gate a channel, one gate a pixel (Liu et al., arXiv:2107.00782).

    Args:
        inplanes: input channels.
        planes: output channels; half as many inside. The gates multiply the input, so it equals ``inplanes``.
    """

    def __init__(self, inplanes: int, planes: int) -> None:
        super().__init__()
        inner = planes // 2
        self.conv_q_right = nn.Conv2D(inplanes, 1, 1, bias_attr=False)
        self.conv_v_right = nn.Conv2D(inplanes, inner, 1, bias_attr=False)
        self.conv_up = nn.Conv2D(inner, planes, 1, bias_attr=False)
        self.conv_q_left = nn.Conv2D(inplanes, inner, 1, bias_attr=False)
        self.conv_v_left = nn.Conv2D(inplanes, inner, 1, bias_attr=False)
        init_convs(self, nn.initializer.KaimingNormal())

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` -> ``[N, C, h, w]``."""
        return x * self._pixel_gate(x) + x * self._channel_gate(x)

    def _channel_gate(self, x: Tensor) -> Tensor:
        values = paddle.flatten(self.conv_v_right(x), 2)
        attention = F.softmax(paddle.flatten(self.conv_q_right(x), 2), axis=2)
        context = paddle.matmul(values, attention, transpose_y=True)
        return F.sigmoid(self.conv_up(paddle.unsqueeze(context, -1)))

    def _pixel_gate(self, x: Tensor) -> Tensor:
        size = spatial_size(x)
        query = paddle.flatten(F.adaptive_avg_pool2d(self.conv_q_left(x), 1), 2)
        values = paddle.flatten(self.conv_v_left(x), 2)
        context = F.softmax(paddle.matmul(query, values, transpose_x=True), axis=2)
        return F.sigmoid(paddle.reshape(context, [0, 1, size[0], size[1]]))

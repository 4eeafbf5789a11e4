"""Addition of one number a channel, at the speed of memory on a CPU.

Paddle 3's ``add`` of ``[1, C, 1, 1]`` to ``[8, 32, 64, 64]`` takes 14 ms (36 ms with its gradient) on a thread of a
CPU, the same sum written as ``[N * C, H * W] + [N * C, 1]`` 3 ms (7 ms). A sixth of a training step of Fast-SCNN went
into the biases of its convolutions: ``benchmarks/training_speed.py``.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

_WORTH_IT = 16384
"""Elements from which on the two reshapes cost less than they save."""


def _is_channel_bias(x: Tensor, y: Tensor) -> bool:
    return (
        x.ndim == y.ndim == 4
        and x.size >= _WORTH_IT
        and x.dtype == y.dtype
        and list(y.shape) == [1, x.shape[1], 1, 1]
        and x.place.is_cpu_place()
    )


def add_channels(x: Tensor, y: Tensor) -> Tensor:
    """``x + y``; the fast way when it runs at once on a CPU and ``y`` is ``[1, C, 1, 1]``, ``x`` ``[N, C, H, W]``.

    The result is that of ``add`` to the last bit; in a program that is being built it is ``add`` itself.
    """
    if not paddle.in_dynamic_mode() or not _is_channel_bias(x, y):
        return paddle.add(x, y)
    samples, channels, height, width = x.shape
    each = y.reshape([1, channels]).expand([samples, channels]).reshape([samples * channels, 1])
    return paddle.add(x.reshape([samples * channels, height * width]), each).reshape(x.shape)

"""Quantizers that train: what a quantizer does in train mode, and the gradient it lets through.

Each is a function of ``x``, its scale and zero point and the integers of its grid. In eval mode all are the op
``slim.fake_quant`` with the stored scale, so what is evaluated and exported is the same for all.

With ``v = x / scale + zero_point`` and ``q = clip(round(v), qmin, qmax)``:

=========================== ============================================================ =====================
name                        gradient to x (times the incoming one)                       scale
=========================== ============================================================ =====================
abs_max                     1 inside, 0 where clipped (straight-through)                 largest of this batch
channel_wise_abs_max        the same                                                     of each channel
range_abs_max               the same                                                     largest of a window
moving_average_abs_max      the same                                                     moving average
PACT (Choi 2018)            the same                                                     learned, eq. 3
LSQ (Esser 2020)            the same                                                     learned, eq. 3
LSQ+ (Bhalgat 2020)         the same                                                     and zero point learned
DSQ (Gong 2019)             of the soft staircase, eq. 5 - 7                             moving average
=========================== ============================================================ =====================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paddle

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.graph.ops import OpRow, register_op
from paddleseg_slim.quant.node import TINY_SCALE, fake_quant

OP = "slim.train_quant"

DSQ_ALPHA = 0.2
"""How far the soft staircase is from the hard one (Gong et al. 2019, eq. 8): 0 is hard."""


def _sum_to(gradient: Any, shape: list[int]) -> Any:
    """Add up a gradient over the axes along which a scale of ``shape`` was broadcast."""
    axes = [axis for axis, size in enumerate(gradient.shape) if axis >= len(shape) or shape[axis] == 1]
    total = gradient.sum(axis=axes, keepdim=True) if len(shape) == len(gradient.shape) else gradient.sum()
    return total.reshape(shape)


def _wanted(ctx: Any, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gradients of the inputs that take one, None for the others, as a PyLayer must return them."""
    return tuple(gradient if takes else None for gradient, takes in zip(gradients, ctx.takes))


class Learned(paddle.autograd.PyLayer):
    """LSQ and LSQ+: the gradient of the scale (and zero point), scaled by ``1 / sqrt(count * qmax)`` (section 2.2).

    d out / d scale = q - zero_point - x / scale inside, q - zero_point where clipped;
    d out / d zero_point = 0 inside, -scale where clipped.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any, zero: Any, qmin: int, qmax: int) -> Any:
        """Quantize and keep what the gradient needs."""
        real = x / scale
        level = paddle.round(real) + zero
        clipped = paddle.clip(level, qmin, qmax)
        inside = clipped == level
        ctx.save_for_backward(inside, paddle.where(inside, clipped - zero - real, clipped - zero), scale, zero)
        ctx.takes = [not tensor.stop_gradient for tensor in (x, scale, zero)]
        ctx.factor = 1.0 / math.sqrt(max(1, x.size // max(1, scale.size)) * max(abs(qmin), qmax))
        return (clipped - zero) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        """The gradients of ``x``, the scale and the zero point."""
        inside, slope, scale, zero = ctx.saved_tensor()
        to_x = paddle.where(inside, gradient, paddle.zeros_like(gradient))
        to_scale = _sum_to(gradient * slope, scale.shape) * ctx.factor
        clipped = paddle.where(inside, paddle.zeros_like(gradient), -gradient * scale)
        return _wanted(ctx, (to_x, to_scale, _sum_to(clipped, zero.shape) * ctx.factor))


class Pact(paddle.autograd.PyLayer):
    """PACT: with ``alpha = scale * top`` the gradient of alpha is 1 above it (-1 below -alpha for a signed grid)."""

    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any, zero: Any, qmin: int, qmax: int) -> Any:
        """Quantize and keep what the gradient needs."""
        level = paddle.round(x / scale) + zero
        clipped = paddle.clip(level, qmin, qmax)
        ctx.takes = [not tensor.stop_gradient for tensor in (x, scale, zero)]
        ctx.save_for_backward(clipped - level, clipped - zero, scale)
        return (clipped - zero) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        """The gradients of ``x``, the scale and the zero point."""
        over, level, scale = ctx.saved_tensor()
        nothing = paddle.zeros_like(gradient)
        to_x = paddle.where(over == 0, gradient, nothing)
        to_scale = _sum_to(paddle.where(over == 0, nothing, gradient * level), scale.shape)
        return _wanted(ctx, (to_x, to_scale, None))


class SoftStaircase(paddle.autograd.PyLayer):
    """DSQ: rounds as the others do, but passes on the derivative of a tanh staircase."""

    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any, zero: Any, qmin: int, qmax: int) -> Any:
        """Quantize and keep what the gradient needs."""
        real = x / scale + zero
        clipped = paddle.clip(paddle.round(real), qmin, qmax)
        steepness = math.log(2 / DSQ_ALPHA - 1)
        phase = paddle.tanh(steepness * (real - paddle.floor(real) - 0.5))
        slope = (0.5 * steepness / (1 - DSQ_ALPHA)) * (1 - phase * phase)
        ctx.save_for_backward(paddle.where((real >= qmin) & (real <= qmax), slope, paddle.zeros_like(slope)))
        return (clipped - zero) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None]:
        """The gradients of ``x``, the scale and the zero point."""
        (slope,) = ctx.saved_tensor()
        return gradient * slope, None, None


Update = Callable[[Any, Any, float], Any]
"""``update(now, stored, rate) -> new stored scale``; ``now`` is what this batch alone would give."""


@dataclass(frozen=True)
class Quantizer:
    """One row of the table.

    Attributes:
        name: as in a config.
        update: how the stored scale follows the batches; None: it is learned.
        gradient: the PyLayer with a gradient of its own; None: straight-through.
        learns_zero_point: the zero point is learned too.
        weights: usable for weights.
        activations: usable for activations.
    """

    name: str
    update: Update | None
    gradient: Any = None
    learns_zero_point: bool = False
    weights: bool = False
    activations: bool = False

    @property
    def learns_scale(self) -> bool:
        """Whether the optimizer changes the scale."""
        return self.update is None


def _present(now: Any, stored: Any, rate: float) -> Any:
    return now


def _average(now: Any, stored: Any, rate: float) -> Any:
    return stored * rate + now * (1 - rate)


def _largest(now: Any, stored: Any, rate: float) -> Any:
    """The largest of a window of about ``1 / (1 - rate)`` batches: what is older fades."""
    return paddle.maximum(now, stored * (0.99 + 0.01 * rate))


QUANTIZERS: dict[str, Quantizer] = {
    item.name: item
    for item in (
        Quantizer("abs_max", _present, weights=True, activations=True),
        Quantizer("channel_wise_abs_max", _present, weights=True),
        Quantizer("range_abs_max", _largest, activations=True),
        Quantizer("moving_average_abs_max", _average, activations=True),
        Quantizer("PACT", None, Pact, activations=True),
        Quantizer("LSQ", None, Learned, weights=True, activations=True),
        Quantizer("LSQ+", None, Learned, learns_zero_point=True, activations=True),
        Quantizer("DSQ", _average, SoftStaircase, weights=True, activations=True),
    )
}


def get_quantizer(name: str, kind: str) -> Quantizer:
    """The quantizer called ``name``, for ``weights`` or ``activations``.

    Raises:
        UserError: there is none, or not for this kind.
    """
    usable = [item.name for item in QUANTIZERS.values() if getattr(item, kind)]
    if name not in usable:
        raise UserError(f"Unknown quantizer for {kind}: {name!r}.", nearest(name, usable))
    return QUANTIZERS[name]


def train_quant(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    bits: int = 8,
    axis: int | None = None,
    qmin: int = -127,
    qmax: int = 127,
    quantizer: str = "moving_average_abs_max",
    moving_rate: float = 0.9,
) -> Any:
    """Quantize in train mode; the stored scale follows.

    Args:
        x: float tensor.
        scale: stored scale, ``[]`` or ``[C]``; changed in place unless it is learned.
        zero_point: stored zero point; None is 0.
        bits: width of the stored integer.
        axis: axis that the scales go along.
        qmin: smallest integer.
        qmax: largest integer.
        quantizer: a name of `QUANTIZERS`.
        moving_rate: how much of the stored scale stays; 1 freezes it.
    """
    row = QUANTIZERS[quantizer]
    if not paddle.in_dynamic_mode():
        return fake_quant(x, scale, zero_point, bits, axis, qmin, qmax)
    if row.update is not None and moving_rate < 1:
        _follow(row.update, x, scale, zero_point, axis, qmin, qmax, moving_rate)
    if row.gradient is None or (x.stop_gradient and not row.learns_scale):
        return fake_quant(x, scale, zero_point, bits, axis, qmin, qmax)
    shape = [-1 if axis is not None and a == axis % len(x.shape) else 1 for a in range(len(x.shape))]
    spread = scale if axis is None else paddle.reshape(scale, shape)
    zero = paddle.zeros_like(spread) if zero_point is None else zero_point
    if row.learns_zero_point:
        zero = zero + (paddle.round(zero) - zero).detach()
    return row.gradient.apply(x, spread, zero, qmin, qmax)


def _follow(
    update: Update, x: Any, scale: Any, zero_point: Any, axis: int | None, qmin: int, qmax: int, rate: float
) -> None:
    """Let the stored scale follow ``x``, in place."""
    with paddle.no_grad():
        axes = None if axis is None else [a for a in range(len(x.shape)) if a != axis % len(x.shape)]
        top = qmax if zero_point is None else paddle.minimum(qmax - zero_point, zero_point - qmin)
        values = x.detach()
        largest = paddle.maximum(paddle.max(values, axis=axes), -paddle.min(values, axis=axes))
        now = paddle.clip(largest / top, min=TINY_SCALE)
        paddle.assign(update(now.reshape(scale.shape), scale, rate), scale)


register_op(OpRow(OP, run=train_quant))

"""What an exported model does after its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.deploy.description import OUTPUT_OPS
from paddleseg_slim.errors import UserError

_OPS: dict[str, Callable[[Any], Any]] = {
    "argmax": lambda logits: paddle.argmax(logits, axis=1, dtype="int32"),
    "softmax": lambda logits: F.softmax(logits, axis=1),
    "none": lambda logits: logits,
}
OUTPUT_DTYPES = {"argmax": "int32", "softmax": "float32", "none": "float32"}


class Exported(nn.Layer):
    """A model as it is exported: of its outputs only the main logits, and ``output_op`` on them.

    Args:
        model: the model.
        logits: the main logits of the model's outputs (`tasks.base.Task.logits`).
        output_op: ``argmax``, ``softmax`` or ``none``.

    Shape:
        Input as the model's. Output ``[N, ...]`` int32 for ``argmax``, else ``[N, classes, ...]`` float32.
    """

    def __init__(self, model: nn.Layer, logits: Callable[[Any], Any], output_op: str = "argmax") -> None:
        super().__init__()
        if output_op not in OUTPUT_OPS:
            raise UserError(f"--output_op is {output_op!r}.", f"It must be one of {', '.join(OUTPUT_OPS)}.")
        self.model = model
        self.output_op = output_op
        self._logits = logits

    def forward(self, image: Any) -> Any:
        """Run the model and its output operation."""
        return _OPS[self.output_op](self._logits(self.model(image)))


def relative_error(logits: np.ndarray, output: np.ndarray, output_op: str) -> float:
    """How far an exported model's output is from the logits of the model it was made of, as a share of their range.

    For ``argmax`` it is how much the logit of the class given is below the highest one: a tie that falls the other way
    counts nothing. NaN is infinitely far.

    Args:
        logits: float ``[N, classes, ...]`` of the source model.
        output: what the exported model gave for the same input.
        output_op: see `Exported`.
    """
    if output_op == "argmax":
        expected = logits.max(axis=1)
        if output.shape != expected.shape or output.min() < 0 or output.max() >= logits.shape[1]:
            return float("inf")
        got = np.take_along_axis(logits, output.astype(np.int64)[:, None], axis=1)[:, 0]
    else:
        expected, got = (_softmax(logits) if output_op == "softmax" else logits), output
    if got.shape != expected.shape:
        return float("inf")
    spread = float(expected.max() - expected.min()) if output_op != "argmax" else float(logits.max() - logits.min())
    error = float(np.abs(expected.astype(np.float64) - got).max()) / max(spread, 1e-12)
    return error if np.isfinite(error) else float("inf")


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

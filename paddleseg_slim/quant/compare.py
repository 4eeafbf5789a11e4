"""Many ways to choose ranges compared at the cost of few: one calibration, quantized forms made offline, short runs.

Every setting is judged by the error of the logits against the float model on a few images, which orders settings as
their accuracy does but needs no labels and no whole evaluation; the best one is then scored in full by the caller.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.quant.calibrate import Calibration, Choice
from paddleseg_slim.quant.insert import tensor_name
from paddleseg_slim.quant.observers import Scale
from paddleseg_slim.quant.placement import bias_name

_OBSERVERS = (("auto", 0.99999), ("mse", 0.99999), ("min_max", 0.99999), ("kl", 0.99999), ("hist", 0.9999))


def twenty() -> list[Choice]:
    """Five observers, weights by largest magnitude or least error, with and without bias correction."""
    return [
        Choice(observer, share, search, correct)
        for (observer, share), search, correct in itertools.product(_OBSERVERS, (True, False), (True, False))
    ]


@dataclass(frozen=True)
class Compared:
    """One setting.

    Attributes:
        choice: the setting.
        error: root mean squared error of the logits, as a share of their standard deviation.
        same: share of positions with the float model's class.
    """

    choice: Choice
    error: float
    same: float


def compare(
    calibration: Calibration, choices: Sequence[Choice], images: np.ndarray, logits: Callable[[Any], Any]
) -> list[Compared]:
    """Judge settings, best first.

    The quantized model is made once; for each setting its scales and biases are put in, and it runs in Paddle, which
    needs no preparation.

    Args:
        calibration: of the model.
        choices: settings.
        images: float32 ``[N, C, H, W]``, a few.
        logits: picks the logits among the outputs.
    """
    expected = _run(calibration.layer, images, logits)
    spread = max(float(expected.std()), 1e-12)
    forms, rows = _Forms(calibration), []
    for choice in choices:
        found = _run(forms.model(choice), images, logits)
        error = float(np.sqrt(((found - expected) ** 2).mean())) / spread
        rows.append(Compared(choice, error, float((found.argmax(1) == expected.argmax(1)).mean())))
    return sorted(rows, key=lambda row: row.error)


def _run(model: GraphLayer, images: np.ndarray, logits: Callable[[Any], Any]) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return np.asarray(logits(model(paddle.to_tensor(images))).numpy())


class _Forms:
    """The quantized forms of one calibration; what two settings share is computed once."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._scales: dict[tuple[str, float], dict[str, Scale]] = {}
        self._weights: dict[bool, dict[str, np.ndarray]] = {}
        self._model: GraphLayer | None = None
        self._signs: dict[str, bool] = {}

    def model(self, choice: Choice) -> GraphLayer:
        """The quantized model of a setting; it is changed by the next call."""
        key = (choice.observer, choice.hist_share)
        if key not in self._scales:
            self._scales[key] = self.calibration.scales(choice)
        if choice.search_weights not in self._weights:
            self._weights[choice.search_weights] = self.calibration.weight_scales(choice)
        scales, weights = self._scales[key], self._weights[choice.search_weights]
        signs = {group: bool(scale.zero_point) for group, scale in scales.items()}
        if self._model is None or signs != self._signs:  # another set of zero points is another graph
            self._model, self._signs = self.calibration.quantized(choice), signs
            return self._model
        self._put(self._model, choice, scales, weights)
        return self._model

    def _put(self, model: GraphLayer, choice: Choice, scales: dict[str, Scale], weights: dict[str, np.ndarray]) -> None:
        for group, scale in scales.items():
            model.tensor(tensor_name(group, "scale")).set_value(np.array(scale.scale, np.float32))
            if scale.zero_point:
                model.tensor(tensor_name(group, "zero_point")).set_value(np.array(scale.zero_point, np.float32))
        for group, array in weights.items():
            model.tensor(tensor_name(group, "scale")).set_value(array.astype(np.float32))
        source = self.calibration.layer
        for name in self.calibration.placement.layers:
            bias = bias_name(source.eval_graph, source.eval_graph.node(name))
            if bias is not None:
                model.tensor(bias).set_value(source.tensor(bias).numpy())
        self.calibration.settle_biases(model, choice, weights)

"""Exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import paddle


class WeightAverage:
    """Averages of a model's floating-point tensors (BatchNorm statistics too), as PaddleSeg's ``--use_ema`` keeps them.

    Args:
        model: the model that is trained.
        decay: weight of the past; at step t it is ``min(1 - 1 / (t + 1), decay)``.
    """

    def __init__(self, model: paddle.nn.Layer, decay: float = 0.999) -> None:
        self._model, self._decay = model, decay
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (from 1)."""
        decay = min(1 - 1 / (step + 1), self._decay)
        for name, tensor in self._model.state_dict().items():
            average = self._average[name]
            if paddle.is_floating_point(tensor):
                average.set_value(average * decay + tensor.detach() * (1 - decay))
            else:
                average.set_value(tensor)

    def state_dict(self) -> dict[str, Any]:
        """The averages by the names of the model's tensors."""
        return dict(self._average)

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Go on from saved averages."""
        for name, average in self._average.items():
            average.set_value(arrays[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages inside the block, and its own weights again after it."""
        own = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._model.set_state_dict(self._average)
        try:
            yield
        finally:
            self._model.set_state_dict(own)

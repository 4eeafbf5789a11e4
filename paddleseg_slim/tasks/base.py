"""The Task protocol: all that a training loop or a compression pass may know of the problem it works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError

Batch = dict[str, Any]
"""What a loader yields: ``img`` float32 ``[N, 3, H, W]``, ``label`` int64 (``[N, H, W]`` or ``[N]``), both
``paddle.Tensor`` or ``numpy.ndarray``, and whatever else the task's transforms add."""

Forward = Callable[[np.ndarray], Any]
"""``img`` float32 ``[N, 3, H, W]`` -> the model's outputs as NumPy arrays, in the model's own structure."""


@dataclass(frozen=True)
class Metrics:
    """The result of one evaluation.

    Attributes:
        primary: name of the number that decides; higher is better, in [0, 1].
        values: every number by name (``mIoU``, ``Acc``, ``Kappa``, ``Dice``; ``Top-1``, ``Top-5``).
        per_class: the primary kind of number for each class name; None for a class absent from data and predictions.
        images: how many images were evaluated.
    """

    primary: str
    values: dict[str, float]
    per_class: dict[str, float | None] = field(default_factory=dict)
    images: int = 0

    @property
    def score(self) -> float:
        """The primary number."""
        return self.values[self.primary]

    def line(self) -> str:
        """The result in one line, as in the ``[EVAL]`` log lines of PaddleSeg."""
        numbers = " ".join(f"{name}: {value:.4f}" for name, value in self.values.items())
        return f"#Images: {self.images} {numbers}"


class Accumulator(ABC):
    """Counts that add up over batches (a confusion matrix); the metrics are computed from the counts alone.

    Sensitivity analysis keeps one per (group, ratio) and stores its counts, so a killed run goes on where it was.
    """

    counts: np.ndarray
    images: int

    @abstractmethod
    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add one batch: the model's outputs (NumPy arrays or tensors, the model's own structure) and its labels."""

    @abstractmethod
    def result(self) -> Metrics:
        """Compute the metrics from the counts."""


class Task(ABC):
    """A problem: its model, data, loss and metric. Nothing outside ``tasks/`` asks which one it is."""

    name: str
    primary: str

    @abstractmethod
    def build_model(self, data_format: str = "NCHW") -> Any:
        """Build the ``paddle.nn.Layer`` of the config, with the weights of its ``pretrained`` keys if there are any.

        Args:
            data_format: layout inside the model; it takes and gives NCHW in any case.

        Raises:
            UserError: the model lacks that layout.
        """

    @abstractmethod
    def train_dataset(self) -> Any:
        """The dataset to train on: ``dataset[(epoch, index)]`` gives one augmented sample, a dict of arrays."""

    @abstractmethod
    def val_dataset(self) -> Any:
        """The dataset to choose by: ``dataset[index]`` gives one sample."""

    def test_dataset(self) -> Any:
        """The dataset to report on; the one to choose by where there is no other."""
        return self.val_dataset()

    @abstractmethod
    def input_spec(self, height: int | None = None, width: int | None = None, batch: int | None = None) -> list[Any]:
        """``paddle.static.InputSpec`` of the model's inputs; None leaves an axis dynamic."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """Losses by name, scalar tensors; ``loss`` is the one to minimise, already weighted and summed."""

    @abstractmethod
    def accumulator(self) -> Accumulator:
        """A fresh, empty accumulator of this task's metric."""

    def inference(self, forward: Forward, settings: Mapping[str, Any]) -> Forward:
        """Wrap ``forward`` by how to infer (``test_config``: sliding window, scales, flips), if the task has such.

        Raises:
            UserError: the task does not know a setting.
        """
        asked = [key for key, value in settings.items() if value]
        if asked:
            raise UserError(f"The task {self.name} has no setting {asked[0]}.", "Remove it from test_config or flags.")
        return forward

    def check_inference(self, settings: Mapping[str, Any]) -> None:
        """Check how to infer before anything is loaded.

        Raises:
            UserError: as `inference` does.
        """

        def nothing(images: np.ndarray) -> Any:
            return images

        self.inference(nothing, settings)

    def pictures(self, forward: Forward, count: int) -> dict[str, np.ndarray]:
        """Pictures of samples and their predictions by tag, uint8 ``[H, W, 3]``, for the log; none by default."""
        return {}

    def accumulators(self, settings: Mapping[str, Any]) -> list[Accumulator]:
        """`accumulator`, and what further metrics ``test_config`` asks for."""
        return [self.accumulator()]

    @abstractmethod
    def preprocess(self) -> Any:
        """What makes an input of an image: ``preprocess({"img": path or array}) -> {"img", "trans_info"}``."""

    def restore(self, outputs: Any, sample: Mapping[str, Any]) -> np.ndarray:
        """The main logits of one image ``[1, C, ...]``, at the size that it had before `preprocess`."""
        return np.asarray(self.logits(outputs))

    @abstractmethod
    def writer(self, folder: Path, names: Sequence[PurePath], custom_colour: Sequence[int] | None = None) -> Any:
        """A `tasks.prediction.PredictionWriter` into ``folder`` for pictures of these relative paths."""

    @abstractmethod
    def logits(self, outputs: Any) -> Any:
        """The main logits ``[N, classes, ...]`` of the model's outputs, what divergences and distillation compare."""

    def output_op(self) -> str:
        """What an exported model does behind its logits if no flag says it: ``argmax``, ``softmax``, ``none``."""
        return "argmax"

    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of their numbers."""

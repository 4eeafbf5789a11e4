"""Evaluations between the steps of a training: the last result, and which weights were the best so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import paddle

from paddleseg_slim.tasks.base import Forward, Metrics, Task
from paddleseg_slim.train import checkpoint as ckpt
from paddleseg_slim.train.ema import WeightAverage
from paddleseg_slim.train.evaluate import evaluate, model_forward
from paddleseg_slim.train.logging import Logger

if TYPE_CHECKING:
    from paddleseg_slim.train.loop import TrainSettings

_LOG = logging.getLogger(__name__)

Improved = dict[str, tuple[str, Callable[[], dict[str, Any]]]]
"""What to write as best: folder -> (file, what gives its tensors)."""


class Validation:
    """Evaluates a model, and the average of its weights, while it is trained.

    Args:
        task: gives data and metric.
        settings: of the training.
        logger: takes the numbers and pictures.
        forward_of: makes what an evaluation in fp32 runs, of the model with its weights of that moment.

    Attributes:
        metrics: of the last evaluation of the model; None before the first.
        best: ``score``, ``iter``, ``metrics`` (a dict) and ``intervals`` (evaluations since then) of the best one, and
            the same, without ``metrics``, of the average below ``ema``; what a checkpoint keeps.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        logger: Logger,
        forward_of: Callable[[paddle.nn.Layer], Forward] = model_forward,
    ) -> None:
        self.task, self.settings, self.logger, self.forward_of = task, settings, logger, forward_of
        self.metrics: Metrics | None = None
        self.best: dict[str, Any] = {}
        self._speaks = paddle.distributed.get_rank() == 0

    def run(self, model: paddle.nn.Layer, average: WeightAverage | None, step: int) -> Improved:
        """Evaluate ``model``, and its ``average`` if there is one; return what is better than all before."""
        improved: Improved = {}
        self.metrics = self._measure(model, step, "Evaluate/", "")
        if step < self.settings.best_from:
            return improved
        if _better(self.best, self.metrics.score, step):
            self.best["metrics"] = asdict(self.metrics)
            improved["best_model"] = ("model.pdparams", lambda: ckpt.state_to_save(model))
        self._say_best("The model", self.best)
        if average is not None:
            with average.applied():
                score = self._measure(model, step, "Evaluate/Ema_", "EMA ").score
            record = self.best.setdefault("ema", {})
            if _better(record, score, step):
                improved["ema_best_model"] = ("ema_model.pdparams", average.state_dict)
            self._say_best("The EMA model", record)
        return improved

    def _measure(self, model: paddle.nn.Layer, step: int, prefix: str, title: str) -> Metrics:
        settings = self.settings
        mixed = settings.precision == "fp16"
        forward = model_forward(model, autocast=settings.amp_level) if mixed else self.forward_of(model)
        metrics = evaluate(
            forward,
            self.task,
            batch_size=settings.eval_batch_size,
            settings=settings.test_config,
            title=f"Evaluating {title}at iter {step}",
        )
        if self._speaks:
            _LOG.info("[EVAL] %s%s", title, metrics.line())
            self.logger.scalars({prefix + name: value for name, value in metrics.values.items()}, step)
            if not title and self.logger.wants_pictures:
                for tag, picture in self.task.pictures(forward, 4).items():
                    self.logger.image(tag, picture, step)
        return metrics

    def _say_best(self, who: str, record: dict[str, Any]) -> None:
        if self._speaks:
            _LOG.info(
                "[EVAL] %s with the best validation %s (%.4f) was saved at iter %d.",
                *(who, self.task.primary, record["score"], record["iter"]),
            )


def _better(record: dict[str, Any], score: float, step: int) -> bool:
    """Whether ``score`` is the best of those in ``record``, which is brought up to date."""
    better = score > record.get("score", -math.inf)
    record["intervals"] = 0 if better else record.get("intervals", 0) + 1
    if better:
        record.update(score=score, iter=step)
    return better

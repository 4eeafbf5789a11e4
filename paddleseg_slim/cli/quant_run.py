"""What ``quant`` and ``post_quant`` are given and do alike: calibration first, files and figures last."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import evaluation, runner
from paddleseg_slim.cli.subset import calibration_images
from paddleseg_slim.errors import GoalNotMet

if TYPE_CHECKING:
    from paddleseg_slim.cli.quant_result import Results
    from paddleseg_slim.config import Config
    from paddleseg_slim.graph import Executor, GraphLayer
    from paddleseg_slim.quant.calibrate import Calibration
    from paddleseg_slim.quant.ptq import QuantSettings
    from paddleseg_slim.tasks.base import Metrics, Task


@dataclass
class QuantRun:
    """One run of a quantization command.

    Attributes:
        args: the flags.
        config, task, model: what is quantized; the model is float and stays so.
        settings: how.
        folder: of the result.
        shape: of one image of the validation set, batch first.
        threads: CPU threads in force.
    """

    args: argparse.Namespace
    config: Config
    task: Task
    model: GraphLayer
    settings: QuantSettings
    folder: Path
    shape: tuple[int, ...]
    threads: int
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        from paddleseg_slim.cli.quant_result import Results

        self.results: Results = Results(self.args, self.config, self.task, self.folder, self.shape, self.threads)
        self.executor: Executor = evaluation.best_executor(self.args.eval_engine, self.threads)

    @property
    def batch_size(self) -> int:
        """Images of a batch: the flag's, or the config's."""
        return self.args.batch_size or self.config.batch_size

    def images(self, count: int) -> list[Any]:
        """Batches of ``count`` images of the calibration set, chosen by ``--seed``."""
        from paddleseg_slim.train.evaluate import batches

        chosen = calibration_images(self.task, count, self.args.calibration_set, self.args.seed)
        return [batch["img"] for batch in batches(chosen, self.batch_size, self.args.num_workers)]

    def calibrate(self, settings: QuantSettings) -> Calibration:
        """Decide where quantizers stand, say so, and see the calibration images."""
        from paddleseg_slim.quant.calibrate import calibrate
        from paddleseg_slim.quant.ptq import prepare

        layer, placement = prepare(self.model, settings, self.shape)
        runner.log("%s", placement.summary())
        for name, reason in placement.left.items():
            runner.log("  float: %s (%s)", name, reason)
        images = self.images(self.args.batch_nums * self.batch_size)
        began = time.monotonic()
        calibration = calibrate(layer, placement, images, self.executor)
        text = "%d images of the %s list seen in %.1f s."
        runner.log(text, calibration.images, self.args.calibration_set, time.monotonic() - began)
        return calibration

    def finish(self, layer: GraphLayer, calibration: Calibration, source: Metrics, memory: Metrics, remedy: str) -> int:
        """Write and measure everything, and compare with the float model.

        Args:
            layer: quantized, with its entry in the record.
            calibration: with the placement in force.
            source: metrics of the float model.
            memory: metrics of ``layer`` in memory.
            remedy: what to do when ``--max-drop`` is not met.

        Raises:
            GoalNotMet: the metric fell by more than ``--max-drop``, or the file is worse than the model in memory.
        """
        self.results.float_stage(self.model, source)
        seconds = time.monotonic() - self.began
        metrics = self.results.quantized(layer, calibration.placement, memory, seconds)
        drop = source.score - metrics.score
        runner.log("%s: %.4f float, %.4f quantized.", metrics.primary, source.score, metrics.score)
        runner.log("The quantized model is saved in %s (model.onnx, calibration_table.txt).", self.folder)
        if self.args.max_drop is not None and drop > self.args.max_drop:
            raise GoalNotMet(
                f"{metrics.primary} fell by {drop:.4f}, at most {self.args.max_drop} was asked for.", remedy
            )
        self.results.check_agreement(memory, metrics)
        return 0

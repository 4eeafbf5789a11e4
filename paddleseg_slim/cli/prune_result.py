"""What the prune command measures and writes: models, stages, the table before / after pruning / after retraining."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import paddle

from paddleseg_slim.cli import deployable, evaluation, prune_removed, report, runner, samples
from paddleseg_slim.cli.prune_folder import DENSE, PRUNED
from paddleseg_slim.config import Config
from paddleseg_slim.deploy import benchmark
from paddleseg_slim.deploy.export import ExportResult
from paddleseg_slim.deploy.head import with_head
from paddleseg_slim.deploy.runtimes import available_engines
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, cost, save
from paddleseg_slim.report import stage
from paddleseg_slim.tasks.base import Metrics, Task
from paddleseg_slim.train.evaluate import evaluate, model_forward
from paddleseg_slim.train.loop import TrainResult

ENGINES = ("onnxruntime", "openvino", "paddle")
START = "start"
"""Name of the stage in the folder `DENSE` if the model was compressed before."""

BEFORE = "before_retraining"
"""Name of the stage in the folder `PRUNED`."""


class Results:
    """Measures and writes. All ranks evaluate, each its share of the images; the first one exports, times and writes.

    Args:
        args, config, task, folder: of the run.
        shape: of one image of the validation set, batch first.
        threads: of this process, for evaluations; times are taken with those of ``--threads``, else with all cores.
    """

    def __init__(
        self, args: argparse.Namespace, config: Config, task: Task, folder: Path, shape: tuple[int, ...], threads: int
    ) -> None:
        self.args, self.config, self.task, self.folder, self.shape = args, config, task, folder, shape
        self.threads = threads
        self._dense: GraphLayer | None = None
        self._start = DENSE
        self.main = paddle.distributed.get_rank() == 0

    # ---- the three models

    def before(self, model: GraphLayer, check: Callable[[Metrics], None] = lambda metrics: None) -> None:
        """Evaluate the model as it was given, ``check`` the result, and export it."""
        self._dense = model
        kind = deployable.made_by(model)
        self._start = DENSE if kind == "train" else START
        if not self.is_whole(DENSE):
            self._stage(model, self.folder / DENSE, self._start, kind, None, check)

    def pruned(self, model: GraphLayer) -> None:
        """Evaluate and export the pruned model, not trained again yet."""
        folder = self.folder / PRUNED
        self._stage(model, folder, BEFORE, "prune", self._start, **prune_removed.facts(folder, "../"))

    def is_whole(self, name: str) -> bool:
        """Whether the run is resumed and left this stage, and its files are as long as they were."""
        folder = self.folder / name
        if not (self.args.resume and (folder / stage.FILE_NAME).is_file()):
            return False
        try:
            known = stage.read_stage(folder).files
        except UserError as error:
            runner.log("%s It is made again.", error.cause)
            return False
        damaged = [file for file, size in known.items() if stage.file_sizes(folder, file) != {file: size}]
        if damaged:
            runner.log("%s is damaged: it is made again.", folder / damaged[0])
        return not damaged

    def score_before_retraining(self) -> float:
        """The score of the model that `pruned` evaluated, in this run or in the one that is resumed."""
        accuracy = stage.read_stage(self.folder / PRUNED).accuracy
        assert accuracy is not None
        return accuracy.score

    def drop_before_retraining(self) -> float:
        """How far the score of the model that `pruned` evaluated is below that of the model given."""
        accuracy = stage.read_stage(self.folder / DENSE).accuracy
        assert accuracy is not None
        return accuracy.score - self.score_before_retraining()

    def final(
        self,
        model: GraphLayer,
        result: TrainResult | None,
        seconds: float,
        notes: Sequence[str] = (),
    ) -> None:
        """Write the retrained model in all its forms, measure everything side by side and say what came out."""
        if self.main:
            save(model, self.folder / "graph")
        name = "retrained" if result is not None else "result"
        removed = prune_removed.facts(self.folder / PRUNED)
        done = self._stage(model, self.folder, name, "prune", self._start, **removed)
        if not self.main:
            return
        timed = () if self.args.no_bench else self._bench(name)
        for folder, own in ((self.folder, name), (self.folder / PRUNED, BEFORE), (self.folder / DENSE, self._start)):
            if timed and (folder / stage.FILE_NAME).is_file():
                latency = tuple(entry for entry in timed if entry.stage == own)
                known = stage.read_stage(folder)
                stage.write_stage(folder, replace(known, latency=tuple(replace(e, stage="") for e in latency)))
        slow = self._slow(timed, name, model)
        for line in slow:
            runner.log("%s", line)
        known = stage.read_stage(self.folder)
        assert self._dense is not None
        written = samples.write(self.folder, self.task, model_forward(model), model_forward(self._dense))
        notes = (*notes, *slow)
        stage.write_stage(self.folder, replace(known, seconds=seconds, samples=written, notes=notes))
        self._say(done)
        page = argparse.Namespace(run_dirs=[str(self.folder)], save_path=None, title="Pruning", open=False)
        report.run(page)

    def _say(self, metrics: Metrics) -> None:
        before = stage.read_stage(self.folder / DENSE)
        if before.accuracy is not None:
            runner.log("%s: %.4f before, %.4f now.", metrics.primary, before.accuracy.score, metrics.score)
        runner.log("Model: %s and %s (Paddle 3 writes model.json; older versions model.pdmodel).",
                   self.folder / "model.json", self.folder / "model.pdiparams")  # fmt: skip
        if (self.folder / "model.onnx").is_file():
            runner.log("ONNX: %s", self.folder / "model.onnx")
        runner.log("To train, quantize or prune it again: --model_path %s", self.folder / "graph")

    def evaluate(self, model: GraphLayer) -> Metrics:
        """The task's metric on the whole validation set."""
        return evaluate(
            evaluation.fast_forward(model, self.task, self.args.eval_engine, self.threads),
            self.task,
            num_workers=self.args.num_workers,
            settings=self.config.test_config,
        )

    def _stage(
        self,
        model: GraphLayer,
        folder: Path,
        name: str,
        kind: str,
        base: str | None,
        check: Callable[[Metrics], None] = lambda metrics: None,
        **facts: Any,
    ) -> Metrics:
        metrics = self.evaluate(model)
        runner.log("[EVAL] %s: %s", name, metrics.line())
        check(metrics)
        if not self.main:
            return metrics
        written = self._export(model, folder)
        deployable.write_stage(written.layer, folder, self.shape, metrics, name=name, kind=kind, base=base, **facts)
        return metrics

    def _export(self, model: GraphLayer, folder: Path) -> ExportResult:
        return deployable.export_with_onnx(model, folder, self.task, self.config, self.task.output_op())

    # ---- time

    def _engines(self, folder: Path) -> list[str]:
        usable = [name for name in ENGINES if name in available_engines()]
        return [name for name in usable if name == "paddle" or (folder / "model.onnx").is_file()]

    def _bench(self, name: str) -> tuple[stage.Latency, ...]:
        folders = {name: self.folder, self._start: self.folder / DENSE}
        candidates = [
            benchmark.Candidate(own, folder, engine)
            for engine in self._engines(self.folder)
            for own, folder in folders.items()
        ]
        threads = self.args.threads or 0
        result = benchmark.measure(candidates, input_shape=self.shape, base=self._start, threads=threads)
        result.save(self.folder)
        for row in result.rows:
            if row.error:
                runner.log("%s was not measured: %s", row.label, row.error)
        return tuple(stage.Latency.of(row, result.settings, row.name) for row in result.rows if not row.error)

    def latencies(self, models: Sequence[GraphLayer]) -> list[float]:
        """Median milliseconds of models on the engine of ``--engine``, for one image of the validation set."""
        with tempfile.TemporaryDirectory() as work:
            candidates = []
            for number, model in enumerate(models):
                folder = Path(work) / str(number)
                self._export(model, folder)
                candidates.append(benchmark.Candidate(str(number), folder, self.args.engine))
            rows = benchmark.measure(candidates, input_shape=self.shape, threads=self.args.threads or 0).rows
        for row in rows:
            if row.error:
                raise UserError(f"The model does not run on {row.engine}: {row.error}", "Give another --engine.")
        return [row.median_ms for row in rows]

    def _slow(self, timed: Sequence[stage.Latency], name: str, model: GraphLayer) -> list[str]:
        """A sentence for every engine on which fewer FLOPs are not faster, with what explains it."""
        lines = []
        assert self._dense is not None
        for entry in timed:
            if entry.stage != name or entry.speedup is None or (entry.ci_low or 0.0) > 1.0:
                continue
            heads = (with_head(m, self.task.logits, "none") for m in (self._dense, model))
            before, after = (cost(m.eval_graph, [self.shape]) for m in heads)
            flops, moved = 1 - after.macs / before.macs, 1 - after.activation_bytes / before.activation_bytes
            lines.append(
                f"{entry.engine}: {100 * flops:.0f} % fewer FLOPs, but not faster ({entry.speedup:.2f}x). Activations "
                f"shrank by {100 * moved:.0f} %; a run takes {entry.median_ms:.2f} ms, in which calls and "
                "memory outweigh arithmetic."
            )
        return lines

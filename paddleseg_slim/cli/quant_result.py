"""What ``quant`` and ``post_quant`` write and measure: graph, ONNX, ranges, description, accuracy, latency."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.cli import deployable, runner, samples
from paddleseg_slim.cli.evaluation import Forwards
from paddleseg_slim.config import Config
from paddleseg_slim.deploy import benchmark
from paddleseg_slim.deploy.description import Deploy, write_deploy
from paddleseg_slim.deploy.evaluate import runtime_forward
from paddleseg_slim.deploy.head import OUTPUT_DTYPES, with_head
from paddleseg_slim.deploy.metadata import onnx_metadata
from paddleseg_slim.deploy.runtimes import RuntimeInfo, RuntimeOptions, available_engines, load
from paddleseg_slim.errors import GoalNotMet, UserError
from paddleseg_slim.files import write_text
from paddleseg_slim.graph import GraphLayer, export_inference, save
from paddleseg_slim.quant.placement import Placement
from paddleseg_slim.quant.ptq import calibration_table
from paddleseg_slim.report import stage
from paddleseg_slim.tasks.base import Metrics, Task
from paddleseg_slim.train.evaluate import evaluate, model_forward

FLOAT = "float"
AGREEMENT = 0.995
"""Share of positions on which the file must choose the class that the model in memory chooses."""

LOST = 0.003
"""How much of the metric a file that chooses other classes may lose against the model in memory."""

ENOUGH = 32
"""With fewer images a difference of the metric says nothing."""

_CHECKED = 8


class Results:
    """Writes and measures.

    Args:
        args, config, task, folder: of the run.
        shape: of one image of the validation set, batch first.
        threads: CPU threads in force.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        config: Config,
        task: Task,
        folder: Path,
        shape: tuple[int, ...],
        threads: int,
    ) -> None:
        self.args, self.config, self.task, self.folder, self.shape = args, config, task, folder, shape
        self.threads = threads
        self._float: GraphLayer | None = None
        self.forwards = Forwards(task, args.eval_engine, threads, len(task.val_dataset()))
        self.output_op = task.output_op()
        self._agreement: tuple[str, float] | None = None

    def score(self, model: GraphLayer, title: str) -> Metrics:
        """Evaluate a model in memory on the validation set."""
        metrics = evaluate(
            self.forwards(model),
            self.task,
            num_workers=self.args.num_workers,
            settings=self.config.test_config,
            title=title,
        )
        runner.log("[EVAL] %s: %s", title, metrics.line())
        return metrics

    def float_stage(self, model: GraphLayer, metrics: Metrics) -> None:
        """Write the float model's ONNX file, which the quantized one is measured against, with its description."""
        self._float = model
        folder = self.folder / FLOAT
        folder.mkdir(parents=True, exist_ok=True)
        self.write_onnx(model, folder / "model.onnx")
        write_deploy(folder, replace(self._deploy(model), model="", params=""))
        self._stage(folder, model, metrics, "model", name=FLOAT, kind=deployable.made_by(model))

    def quantized(self, model: GraphLayer, placement: Placement, memory: Metrics, seconds: float) -> Metrics:
        """Write the quantized model in all its forms, evaluate the file in its engine, measure it, say what came out.

        Returns:
            the metrics of the file; of the model in memory where no engine on this machine runs it.
        """
        model.eval()
        save(model, self.folder / "graph")
        write_text(self.folder / "calibration_table.txt", calibration_table(model))
        self.write_onnx(model, self.folder / "model.onnx", **placement.profile.file_options())
        # for Paddle Inference the rounding stays a part of the program: exact, at the speed and size of float
        headed = with_head(model, self.task.logits, self.output_op)
        export_inference(headed, self.folder / "model")
        write_deploy(self.folder, self._deploy(model))
        notes, metrics, source = [placement.summary()], memory, "model"
        engine = next((name for name in placement.profile.engines if name in available_engines()), None)
        if engine is None:
            notes.append(f"No engine of the target {placement.profile.name} is installed: the file was not evaluated.")
        else:
            metrics, source = self._evaluate_file(model, engine, notes), engine
        facts = {"name": "quantized", "kind": "quant", "base": FLOAT, "notes": tuple(notes), "seconds": seconds}
        facts["samples"] = self._samples(model)
        self._stage(self.folder, model, metrics, source, **facts)
        if engine is not None and not self.args.no_bench:
            self._bench(placement)
        for note in notes:
            runner.log("%s", note)
        return metrics

    def write_onnx(self, model: GraphLayer, path: Path, **options: Any) -> None:
        """Write a model with its output operation as an ONNX file; ``options``: `profiles.Profile.file_options`."""
        from paddleseg_slim.deploy.onnx import write_onnx

        model.eval()
        write_onnx(
            model,
            path,
            output_op=self.output_op,
            logits=self.task.logits,
            metadata=onnx_metadata(self._deploy(model)),
            **options,
        )

    def _deploy(self, model: GraphLayer) -> Deploy:
        return Deploy(
            model="model.json",
            params="model.pdiparams",
            transforms=self.task.preprocess().describe()["transforms"],
            input_shape=list(deployable.described_shape(model, self.task, self.config)),
            output_op=self.output_op,
            output_dtype=OUTPUT_DTYPES[self.output_op],
            num_classes=len(self.task.class_names()),
            class_names=list(self.task.class_names()),
            task=self.config.task,
            onnx="model.onnx",
        )

    def _evaluate_file(self, model: GraphLayer, engine: str, notes: list[str]) -> Metrics:
        runtime = load(self.folder / "model.onnx", engine, engine_options(engine, "int8", self.threads))
        info = runtime.describe()
        notes.append(_precision_line(info))
        forward = runtime_forward(runtime, len(self.task.class_names()))
        self._compare(model, forward, engine, notes)
        metrics = evaluate(
            forward,
            self.task,
            num_workers=self.args.num_workers,
            settings=self.config.test_config,
            title=f"Evaluating in {engine}",
        )
        runner.log("[EVAL] model.onnx in %s: %s", engine, metrics.line())
        return metrics

    def _compare(self, model: GraphLayer, forward: Any, engine: str, notes: list[str]) -> None:
        data, same, total = self.task.val_dataset(), 0, 0
        for index in range(min(_CHECKED, len(data))):
            image = np.asarray(data[index]["img"])[None]
            ours = np.asarray(self.task.logits(model_forward(model)(image))).argmax(1)
            theirs = np.asarray(self.task.logits(forward(image))).argmax(1)
            same, total = same + int((ours == theirs).sum()), total + ours.size
        self._agreement = engine, same / total
        share = same / total
        runner.log("%s and the model in memory choose the same class in %.3f %%.", engine, 100 * share)
        if share < AGREEMENT:
            notes.append(
                f"{engine} chooses the class of the model in memory in {share:.2%} of the places only (wanted "
                f"{AGREEMENT:.1%}): the accuracy is that of the file."
            )

    def check_agreement(self, memory: Metrics, metrics: Metrics) -> None:
        """Refuse a file that is worse than the model that it was made of, once everything is written to be looked at.

        Raises:
            GoalNotMet: it chooses other classes in too many places, and its metric is lower for it.
        """
        if self._agreement is None or self._agreement[1] >= AGREEMENT:
            return
        if metrics.images < ENOUGH or metrics.score >= memory.score - LOST:
            return
        engine, share = self._agreement
        raise GoalNotMet(
            f"In {engine} the file chooses the class of the quantized model in {share:.2%} of the places "
            f"({metrics.primary} {metrics.score:.4f}, in memory {memory.score:.4f}).",
            "Give --target cpu where the processor has no VNNI; else keep the layers float that differ (--analyze).",
        )

    def _stage(self, folder: Path, model: GraphLayer, metrics: Metrics, source: str, **facts: Any) -> None:
        deployed = with_head(model, self.task.logits, self.output_op)  # without auxiliary heads, as in every stage
        deployable.write_stage(deployed, folder, self.shape, metrics, source=source, files=("model.onnx",), **facts)

    def _samples(self, model: GraphLayer) -> tuple[str, ...]:
        """Predictions of the quantized model and of the float one."""
        forwards = [model_forward(item) for item in (model, self._float) if item is not None]
        return samples.write(self.folder, self.task, *forwards)

    def _bench(self, placement: Placement) -> None:
        """Time the quantized file against the float one, in turns, on every engine of the target."""
        folders = {"quantized": self.folder, FLOAT: self.folder / FLOAT}
        engines = [name for name in placement.profile.engines if name in available_engines()]
        precisions = {"quantized": "int8", FLOAT: "fp16"}
        candidates = [
            benchmark.Candidate(
                name, folder / "model.onnx", engine, engine_options(engine, precisions[name], self.threads)
            )
            for engine in engines
            for name, folder in folders.items()
        ]
        result = benchmark.measure(candidates, input_shape=self.shape, base=FLOAT, threads=self.threads)
        result.save(self.folder)
        known = stage.read_stage(self.folder)
        notes = list(known.notes)
        latency: dict[str, list[stage.Latency]] = {name: [] for name in folders}
        for row in result.rows:
            if row.error:
                notes.append(f"{row.label} was not measured: {row.error}")
                continue
            entry = stage.Latency.of(row, result.settings)
            latency[row.name].append(entry)
            if row.name != FLOAT:
                runner.log("%s: %.2f ms, %.2fx against float", row.engine, row.median_ms, entry.speedup or 0.0)
                if entry.speedup is not None and (entry.ci_low or 0.0) <= 1.0:
                    notes.append(
                        f"{row.engine}: no speed-up on this machine ({entry.speedup:.2f}x); "
                        "post_quant --keep-float slow leaves layers float that int8 makes slower."
                    )
        stage.write_stage(self.folder, replace(known, latency=tuple(latency["quantized"]), notes=tuple(notes)))
        before = stage.read_stage(folders[FLOAT])
        stage.write_stage(folders[FLOAT], replace(before, latency=tuple(latency[FLOAT])))


def _precision_line(info: RuntimeInfo) -> str:
    counts = ", ".join(f"{count} in {name}" for name, count in sorted(info.conv_precisions.items()))
    text = f"{info.engine} {info.version} runs its convolutions: {counts or 'it does not tell how'}"
    return text + (f"; {info.fallbacks} quantized ones fell back to float" if info.fallbacks else "")


def need_onnx() -> None:
    """Refuse to begin where the package that writes the result is missing.

    Raises:
        UserError: the package onnx is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("onnx") is None:
        raise UserError("The package onnx is not installed.", "Install it: pip install 'paddleseg_slim[onnx]'")


def engine_options(engine: str, precision: str, threads: int) -> RuntimeOptions:
    """How a file of a quantization runs: TensorRT on the GPU in ``precision``; on the CPU the file says it itself."""
    if engine == "tensorrt":
        return RuntimeOptions(device="gpu", precision=precision, threads=threads)
    return RuntimeOptions(threads=threads)

"""One run of the distill command: models, training, files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from paddleseg_slim.chain.state import differences, digest_of
from paddleseg_slim.cli import deployable, runner, setup, training
from paddleseg_slim.cli.evaluation import Forwards
from paddleseg_slim.cli.setup import Session
from paddleseg_slim.config import Config
from paddleseg_slim.distill.distiller import Distiller, Mutual, Term
from paddleseg_slim.distill.losses import DMLLoss
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer, capture, load, save
from paddleseg_slim.report import stage
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train import checkpoint
from paddleseg_slim.train.evaluate import evaluate
from paddleseg_slim.train.weights import load_weights
from paddleseg_slim.version import __version__

if TYPE_CHECKING:
    from paddleseg_slim.tasks.base import Metrics, Task
    from paddleseg_slim.train.loop import TrainResult

BEFORE = "student"
FACTS = "distill.json"
_LOSS_FLAGS = (
    *("logits_loss", "logits_weight", "feature_loss", "feature_weight", "student_taps", "teacher_taps"),
    *("temperature", "mutual"),
)
_COMPARED = 8


class Run:
    """A distillation.

    Args:
        args: the flags.
        config: of the student, the data and the schedule.
        teacher_config: of the teacher's model.
        terms: what is compared; empty for mutual learning.
        session: device and threads.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        config: Config,
        teacher_config: Config,
        terms: Sequence[Term],
        session: Session,
    ) -> None:
        self.args, self.config, self.terms, self.session = args, config, terms, session
        self.task: Task = build_task(config)
        self.dataset = self.task.train_dataset()
        self.task.val_dataset()  # what is wrong with it is said now
        self.shape = tuple(np.asarray(self.dataset[(0, 0)]["img"]).shape)
        paddle.seed(args.seed)
        self.student = self._graph(self.task, args.model_path)
        deployable.described_shape(self.student, self.task, config)  # what is wrong with it is said now
        self.teacher = self._teacher(teacher_config)
        self.settings = training.settings_of(args, config, session.threads, do_eval=args.do_eval)
        training.check(self.settings, config, self.student, self.task)
        if args.resume:
            self.resume = training.find_latest(config, self.settings, len(self.dataset))
        else:
            self.resume = training.find_resume(args.resume_model, config, self.settings, len(self.dataset))
        self.goes_on = args.resume or training.goes_on(self.resume, args.save_dir)
        self.facts = self._facts()
        if self.resume:
            self._check_same(self.resume.folder.parent / FACTS)

    def _facts(self) -> dict[str, Any]:
        """What a resumed run must share besides the config: the models that it began with, and the losses by flag."""
        given = {name: getattr(self.args, name) for name in _LOSS_FLAGS}
        paths = {name: getattr(self.args, name) for name in ("model_path", "teacher_model_path")}
        return {**given, **{name: path and digest_of(Path(path)) for name, path in paths.items()}}

    def _check_same(self, path: Path) -> None:
        """Refuse to go on with another teacher, student or loss.

        Raises:
            UserError: something differs; the flags are named.
        """
        if not path.is_file():
            return
        changed = differences(self.facts, json.loads(path.read_text(encoding="utf-8")))
        if changed:
            raise UserError(
                f"{path.parent} belongs to a run with other settings: {'; '.join(changed)}.",
                "Resume with the same flags and models, or give another --save_dir.",
            )

    def _graph(self, task: Task, path: str | None) -> GraphLayer:
        model = setup.load_model(task, path, reset_head=self.args.reset_head) if path else task.build_model()
        if isinstance(model, GraphLayer):
            return model
        return capture(model, task.input_spec(), fixed_size=(self.shape[1], self.shape[2]))

    def _teacher(self, config: Config) -> GraphLayer:
        """The teacher: a config with weights, a saved graph, or an exported model."""
        path = self.args.teacher_model_path
        exported = path and not path.endswith((".pdparams", ".safetensors")) and setup.saved_graph(path) is None
        return load(path) if exported else self._graph(build_task(config), path)

    def run(self, folder: Path) -> None:
        """Train, and write what came out into ``folder``."""
        if self.args.overwrite and not self.goes_on:
            checkpoint.clear_run(folder)
        main = paddle.distributed.get_rank() == 0
        if main:
            write_json(folder / FACTS, self.facts)
        if self.args.model_path and not (self.resume and (folder / BEFORE / stage.FILE_NAME).is_file()):
            before = self._evaluate(self.student)  # every process has its share of the images
            if main:
                self._write(self.student, folder / BEFORE, BEFORE, deployable.made_by(self.student), before)
        hook = self._hook(folder)
        result = training.fit(
            *(self.student, self.task, self.config, self.settings),
            dataset=self.dataset,
            hooks=[hook],
            resume=self.resume,
            use_vdl=self.args.use_vdl,
            engine=self.args.eval_engine,
        )
        best = folder / "best_model" / "model.pdparams"
        if self.args.do_eval and best.is_file():
            load_weights(self.student, best)
        hook.remove()
        metrics = self._evaluate(self.student)
        if main:
            self._finish(folder, result, metrics)

    def _hook(self, folder: Path) -> Distiller | Mutual:
        if self.args.mutual:
            weight = self.args.logits_weight
            return Mutual(self.student, [self.teacher], self.task.loss, self.task.logits, DMLLoss(), weight)
        cache = None
        if self.args.cache_teacher:
            self._refuse_augmentation()
            cache = folder / "teacher_cache"
        shape = (self.config.batch_size, *self.shape)
        hook = Distiller(self.student, self.teacher, self.terms, self.task.logits, shape, cache)
        for ours, theirs in zip(hook.ours.names, hook.theirs.names):
            runner.log("Compared: %s of the student, %s of the teacher.", ours, theirs)
        return hook

    def _refuse_augmentation(self) -> None:
        """Refuse to cache for images that differ from epoch to epoch."""
        for index in range(min(_COMPARED, len(self.dataset))):
            first, second = (np.asarray(self.dataset[(epoch, index)]["img"]) for epoch in (0, 1))
            if not np.array_equal(first, second):
                raise UserError(
                    "--cache_teacher: the training images differ from epoch to epoch.",
                    "Remove the random transforms of train_dataset, or leave --cache_teacher out.",
                )

    # ---- files

    def _finish(self, folder: Path, result: TrainResult, metrics: Metrics) -> None:
        names = [type(term.loss).__name__ for term in self.terms] or ["DMLLoss"]
        teacher = self.args.teacher_model_path or self.args.teacher_config
        self.student.record.append(
            {"step": "distill", "losses": names, "teacher": teacher, "iters": result.iters, "version": __version__}
        )
        runner.log("[EVAL] distilled: %s", metrics.line())
        save(self.student, folder / "graph")
        base = BEFORE if (folder / BEFORE / stage.FILE_NAME).is_file() else None
        self._write(self.student, folder, "distilled", "distill", metrics, base, result)
        runner.log("To train, quantize or prune it: --model_path %s", folder / "graph")

    def _evaluate(self, model: GraphLayer) -> Metrics:
        forward = Forwards(self.task, self.args.eval_engine, self.session.threads, len(self.task.val_dataset()))(model)
        return evaluate(forward, self.task, settings=self.config.test_config)

    def _write(
        self,
        model: GraphLayer,
        folder: Path,
        name: str,
        kind: str,
        metrics: Metrics,
        base: str | None = None,
        result: TrainResult | None = None,
    ) -> None:
        """Export the model and write its stage."""
        from paddleseg_slim.train.logging import read_curves

        written = deployable.export_with_onnx(model, folder, self.task, self.config, self.task.output_op())
        tags = {"Train/loss": "loss", f"Evaluate/{self.task.primary}": self.task.primary}
        curves = {tags[tag]: points for tag, points in read_curves(folder).items() if tag in tags} if result else {}
        deployable.write_stage(
            written.layer,
            folder,
            (1, *self.shape),
            metrics,
            name=name,
            kind=kind,
            base=base,
            seconds=result.seconds if result else 0.0,
            curves=curves,
        )

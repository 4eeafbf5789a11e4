"""The course of the prune command, each step of which can be killed and resumed."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle

from paddleseg_slim.cli import prune_hooks, prune_removed, runner, training
from paddleseg_slim.cli.prune_folder import PRUNED, RETRAINING, SPARSE_TRAINING, RunFolder
from paddleseg_slim.cli.prune_result import Results
from paddleseg_slim.cli.prune_steps import Analysis, refuse_not_finite, refuse_quantized
from paddleseg_slim.cli.refit import reconstruct_layers
from paddleseg_slim.cli.setup import Session, load_model, precision
from paddleseg_slim.config import Config
from paddleseg_slim.distill.self_distillation import SelfDistillation
from paddleseg_slim.errors import GoalNotMet, UserError
from paddleseg_slim.graph import GraphLayer, capture, load, save
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.prune.plan import Goal, Pruned, check_goal, check_latency, is_met, prune_to, prune_to_latency
from paddleseg_slim.prune.sensitivity import check_trained
from paddleseg_slim.prune.sparsity import (
    WHO_GAINS,
    GradualSchedule,
    achieved,
    magnitude_masks,
    sparse_weights,
    two_of_four_masks,
)
from paddleseg_slim.tasks.base import Metrics, Task
from paddleseg_slim.train import checkpoint
from paddleseg_slim.train.hooks import Hook
from paddleseg_slim.train.loop import TrainResult, TrainSettings
from paddleseg_slim.train.weights import load_weights


class Run:
    """One run.

    Args:
        args: the flags.
        config: with the flags' values in it.
        task: of the config.
        session: device and threads.
        goal: what is asked for.
        folder: of the run.
    """

    # ---- before anything is written

    def __init__(
        self, args: argparse.Namespace, config: Config, task: Task, session: Session, goal: Goal, folder: Path
    ) -> None:
        self.args, self.config, self.task, self.session, self.goal = args, config, task, session, goal
        self.folder = folder
        self.began = time.monotonic()
        self.main = paddle.distributed.get_rank() == 0
        self.place = RunFolder(folder, args, config)
        shape = task.val_dataset()[0]["img"].shape
        self.results = Results(args, config, task, folder, (1, *shape), session.threads)
        self.dense = self._model()
        self.sparse_names: list[str] = []
        if args.method == "channel":
            self.groups = self._groups(self.dense)
            self.analysis = Analysis(args, config, task, folder, self.groups, session.threads)
            self._check_channels()
        else:
            self.sparse_names = sparse_weights(self.dense, args.only_1x1, args.keep)
            if not self.sparse_names:
                raise UserError("The model has no weight that may become sparse.", "Leave --only_1x1 and --keep out.")
        training.check(self._settings(RETRAINING, max(args.retraining_iters, 1), True), config, self.dense, task)
        if self.main:
            self.place.begin()  # and only now write: all that may be refused early has been looked at

    def _check_channels(self) -> None:
        """Refuse what takes no analysis to know."""
        if self.goal.latency_ms is not None and paddle.distributed.get_world_size() > 1:
            raise UserError("--target-latency is measured by one process.", "Start without paddle.distributed.launch.")
        if self.args.sparse_iters and not self.groups.batch_norm_scales:
            raise UserError("--sparse_iters: the model has no BatchNorm.", "Leave it out.")
        check_goal(self.groups, self.goal)
        self.analysis.check()
        if self.goal.latency_ms is not None and not self.place.has_pruned:
            check_latency(self.groups, self.goal, self.results.latencies)

    def _model(self) -> GraphLayer:
        paddle.seed(self.args.seed)
        if self.args.model_path:
            model = load_model(self.task, self.args.model_path, reset_head=self.args.reset_head)
        else:
            model = self.task.build_model()
        if isinstance(model, GraphLayer):
            refuse_quantized(model)
            refuse_not_finite(model)  # files of weights are looked at where they are read
            return model
        size = self.results.shape[2:]
        return capture(model, self.task.input_spec(), fixed_size=(size[0], size[1]))

    def _groups(self, model: GraphLayer) -> ChannelGroups:
        size = self.results.shape[2:]
        return find_groups(model, (size[0], size[1]), self.task.logits)

    # ---- channels

    def channel(self) -> int:
        """Prune channels."""
        if is_met(self.groups, self.goal):
            runner.log("The model costs no more than what is asked for: nothing is removed.")
        teacher = self.dense
        if self.args.sparse_iters:
            teacher = copy.deepcopy(self.dense)
            self.results.before(teacher, self._check_start())
            self._train_sparse()
        pruned_path = self.folder / PRUNED / "graph"
        model = self._pruned_before(pruned_path) or self._prune(pruned_path)
        hooks: list[Hook] = []
        if not self.args.no_distill:
            hooks.append(SelfDistillation(teacher, self.task.logits, self.args.distill_weight))
        notes = self._notes(model)
        result = self._retrain(model, hooks)
        if result is not None and result.best:
            before, best = self.results.score_before_retraining(), float(result.best["score"])
            if best < before:
                notes.append(f"Retraining reached {best:.4f}; the model as pruned has {before:.4f} and stays.")
                runner.log("%s", notes[-1])
                model, result = load(pruned_path), None
        self.results.final(model, result, time.monotonic() - self.began, notes)
        return 0

    def _pruned_before(self, path: Path) -> GraphLayer | None:
        """The pruned model of the run that is resumed; None where there is none, or not a whole one."""
        if not self.place.has_pruned:
            return None
        try:
            model = load(path)
        except UserError as error:
            runner.log("%s It is made again.", error.cause)
            return None
        runner.log("Resume: the pruned model is taken from %s.", path)
        if not self.args.sparse_iters:
            self.results.before(self.dense)
        if not self.results.is_whole(PRUNED):
            self.results.pruned(model)
        return model

    def _notes(self, model: GraphLayer) -> list[str]:
        """What the report says of the time that was asked for and measured, and of a drop that is not as predicted."""
        notes = []
        removed = len(model.record) > len(self.dense.record)
        measured = model.record[-1].get("measured_ms") if removed else None
        if measured is not None:
            notes.append(f"Asked for {self.goal}: {measured:.2f} ms was measured on {self.args.engine} in the search.")
        drop = self.results.drop_before_retraining() if self.main and self.goal.max_drop is not None else 0.0
        if self.goal.max_drop is not None and drop > self.goal.max_drop:
            notes.append(
                f"A drop of at most {self.goal.max_drop:g} was predicted; before retraining it is {drop:.4f}. More "
                "--sensitivity_images, or --sensitivity exact, predict it better."
            )
        for note in notes:
            runner.log("%s", note)
        return notes

    def _prune(self, path: Path) -> GraphLayer:
        """Prune by the goal; where it is not reached, another one can be given to the same run."""
        runner.log("Step 1/3: Start calculating the sensitivity of model parameters...")
        if not self.args.sparse_iters:
            self.results.before(self.dense, self._check_start())
        importance, curves = self.analysis.run()
        if self.goal.flops_removed is not None:
            runner.log("Step 2/3: Start to prune the model, the ratio of pruning is %s...", self.goal.flops_removed)
        else:
            runner.log("Step 2/3: Start to prune the model: %s...", self.goal)
        try:
            pruned = self._to_goal(importance, curves)
        except GoalNotMet as error:
            again = "Give another goal with --resume: the sensitivities stay."
            raise GoalNotMet(error.cause, f"{error.remedy} {again}") from None
        self._say(pruned)
        for name, (before, after) in pruned.widths.items():
            runner.log("  %s: %d -> %d", name, before, after)
        if pruned.widths and not (self.args.no_reconstruct or self.args.from_scratch):
            reconstruct_layers(self.args, self.task, pruned.model, self.dense)
        if self.main:
            prune_removed.write(self.folder / PRUNED, pruned, curves)
        self.results.pruned(pruned.model)
        if self.main:
            save(pruned.model, path)
        return pruned.model

    def _check_start(self) -> Callable[[Metrics], None]:
        """What looks at the score of the model that was given."""
        measured = self.args.sensitivity != "none" and not self.args.label_free
        return check_trained if measured else lambda metrics: None

    def _to_goal(self, importance: dict[str, np.ndarray], curves: Curves) -> Pruned:
        if self.goal.latency_ms is None:
            return prune_to(self.groups, curves, importance, self.goal)
        pruned, milliseconds = prune_to_latency(
            self.groups, curves, importance, self.goal, self.results.latencies, lambda line: runner.log("%s", line)
        )
        if pruned.widths:
            pruned.model.record[-1]["measured_ms"] = round(milliseconds, 4)
        runner.log("Latency: asked %.2f ms, measured %.2f ms.", self.goal.latency_ms, milliseconds)
        return pruned

    def _say(self, pruned: Pruned) -> None:
        """Asked against achieved."""
        asked = f"asked {100 * self.goal.flops_removed:.2f} % removed, " if self.goal.flops_removed is not None else ""
        runner.log("FLOPs: %sachieved %.2f %% removed.", asked, 100 * pruned.flops_removed)
        asked = f"asked at most {self.goal.params:,.0f}: " if self.goal.params is not None else ""
        if self.goal.max_drop is not None:
            runner.log(
                "Predicted drop: asked at most %g, %.4f by the curves.", self.goal.max_drop, pruned.predicted_drop
            )
        runner.log("Parameters: %s%s", asked, "{:,} before, {:,} after.".format(*pruned.params))

    def _train_sparse(self) -> None:
        """Train with an L1 loss on the BatchNorm scales, in place."""
        names = sorted(self.groups.batch_norm_scales)
        runner.log("Sparse training of %d BatchNorm layers for %d iterations.", len(names), self.args.sparse_iters)
        hook = prune_hooks.SparseScales(self.dense, names, self.args.sparse_factor)
        self._fit(self.dense, SPARSE_TRAINING, self.args.sparse_iters, [hook], best=False)
        runner.log("[EVAL] after sparse training: %s", self.results.evaluate(self.dense).line())

    # ---- training

    def _settings(self, name: str, iters: int, best: bool, best_from: int = 0) -> TrainSettings:
        return training.settings_of(
            self.args,
            self.config,
            self.session.threads,
            save_dir=self.folder / name,
            iters=iters,
            save_interval=min(self.args.save_interval, iters),
            do_eval=best,
            best_from=best_from,
            precision=precision(self.args),
            amp_level=self.args.amp_level,
        )

    def _retrain(self, model: GraphLayer, hooks: list[Hook], best_from: int = 0) -> TrainResult | None:
        if not self.args.retraining_iters:
            runner.log("Step 3/3: No retraining, --retraining_iters is 0.")
            return None
        runner.log("Step 3/3: Start retraining the model.")
        return self._fit(model, RETRAINING, self.args.retraining_iters, hooks, True, best_from)

    def _fit(
        self, model: GraphLayer, name: str, iters: int, hooks: list[Hook], best: bool, best_from: int = 0
    ) -> TrainResult:
        """Train in a folder of the run; with ``best`` the weights of the best evaluation stay in the model."""
        settings, dataset = self._settings(name, iters, best, best_from), self.task.train_dataset()
        folder = settings.save_dir
        resume = training.find_latest(self.config, settings, len(dataset)) if self.args.resume else None
        result = training.fit(
            model,
            self.task,
            self.config,
            settings,
            dataset=dataset,
            hooks=hooks,
            resume=resume,
            use_vdl=self.args.use_vdl,
            engine=self.args.eval_engine,
        )
        file = folder / "best_model" / "model.pdparams"
        if best and file.is_file():
            load_weights(model, file)
        return replace(result, folder=checkpoint.find_resume(folder).folder)

    # ---- zeros

    def sparse(self) -> int:
        """Make weights zero, at once or gradually, and train the others."""
        original = copy.deepcopy(self.dense)
        self.results.before(original)
        weights: dict[str, np.ndarray] = {name: self.dense.tensor(name).numpy() for name in self.sparse_names}
        schedule, end = None, 0
        if self.args.method == "2:4":
            masks = two_of_four_masks(weights)
            runner.log("2:4: %d of %d weights have input channels in fours.", len(masks), len(weights))
        else:
            start = 0.0 if self.args.method == "gmp" else self.args.pruning_ratio
            masks = magnitude_masks(weights, start)
            if self.args.method == "gmp":
                end = max(self.args.retraining_iters // 2, 1)
                schedule = GradualSchedule(self.args.pruning_ratio, start, end)
        hooks: list[Hook] = [prune_hooks.KeepZeros(self.dense, masks, schedule)]
        if not self.args.no_distill:
            hooks.append(SelfDistillation(original, self.task.logits, self.args.distill_weight))
        result = self._retrain(self.dense, hooks, best_from=end)
        part = achieved({name: self.dense.tensor(name).numpy() for name in masks})
        asked = "" if self.args.pruning_ratio is None else f"asked {100 * self.args.pruning_ratio:.2f} %, "
        runner.log("Zeros: %sachieved %.2f %% of the weights of %d layers.", asked, 100 * part, len(masks))
        note = WHO_GAINS["2:4" if self.args.method == "2:4" else "unstructured"]
        runner.log("%s", note)
        self.dense.record.append({"step": "sparsify", "method": self.args.method, "zeros": part})
        self.results.final(self.dense, result, time.monotonic() - self.began, notes=(note,))
        return 0

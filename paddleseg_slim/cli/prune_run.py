"""The course of the prune command, each step of which can be killed and resumed."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle

from paddleseg_slim.cli import prune_hooks, runner, training
from paddleseg_slim.cli.prune_result import Results
from paddleseg_slim.cli.prune_steps import Analysis, refuse_not_finite, refuse_quantized
from paddleseg_slim.cli.refit import reconstruct_layers
from paddleseg_slim.cli.setup import Session, load_model, precision
from paddleseg_slim.config import Config
from paddleseg_slim.distill.self_distillation import SelfDistillation
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer, capture, load, save
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.plan import Goal, prune_to, prune_to_latency
from paddleseg_slim.prune.sensitivity import check_trained
from paddleseg_slim.prune.sparsity import (
    WHO_GAINS,
    GradualSchedule,
    achieved,
    magnitude_masks,
    sparse_weights,
    two_of_four_masks,
)
from paddleseg_slim.tasks.base import Task
from paddleseg_slim.train import checkpoint
from paddleseg_slim.train.hooks import Hook
from paddleseg_slim.train.loop import TrainResult
from paddleseg_slim.train.weights import load_weights

SETTINGS = "prune.json"
_NOT_COMPARED = {
    "resume",
    "overwrite",
    "debug",
    "save_dir",
    "threads",
    "log_iters",
    "num_workers",
    "use_vdl",
    "no_bench",
    "eval_engine",
}


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

    def __init__(
        self, args: argparse.Namespace, config: Config, task: Task, session: Session, goal: Goal, folder: Path
    ) -> None:
        self.args, self.config, self.task, self.session, self.goal = args, config, task, session, goal
        self.folder = folder
        self.began = time.monotonic()
        self.main = paddle.distributed.get_rank() == 0
        shape = task.val_dataset()[0]["img"].shape
        self.results = Results(args, config, task, folder, (1, *shape), session.threads)
        self.dense = self._model()  # before anything is written: it may be refused
        self._check_settings()

    def _check_settings(self) -> None:
        """Refuse to resume a run with other flags; a new run forgets what stood in its folder."""
        flags = {k: v for k, v in sorted(vars(self.args).items()) if k not in _NOT_COMPARED}
        path = self.folder / SETTINGS
        if self.args.resume and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            differ = [
                f"--{k}: {flags.get(k)}, was {before['flags'].get(k)}"
                for k in flags
                if flags[k] != before["flags"].get(k)
            ]
            differ += self.config.differences(before["config"])
            if differ:
                raise UserError(
                    f"{self.folder} belongs to a run with other settings: {'; '.join(differ[:5])}.",
                    "Give the same settings, or another --save_dir.",
                )
            return
        if self.main:
            for name in ("pruned", "retraining", "sparse_training", "graph", "dense"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            write_json(path, {"flags": flags, "config": self.config.to_dict()})

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
        groups = self._groups(self.dense)
        if self.goal.latency_ms is not None and paddle.distributed.get_world_size() > 1:
            raise UserError("--target-latency is measured by one process.", "Start without paddle.distributed.launch.")
        if self.goal.flops_removed == 0 and self.goal.params is None and self.goal.latency_ms is None:
            runner.log("The pruning ratio is 0: nothing is removed.")
        if self.args.sparse_iters:
            self._train_sparse(groups)
        pruned_path = self.folder / "pruned" / "graph"
        if self.args.resume and (pruned_path / "graph.json").is_file():
            runner.log("Resume: the pruned model is taken from %s.", pruned_path)
            model = load(pruned_path)
            self.results.before(self.dense)
        else:
            model = self._prune(groups, pruned_path)
        hooks: list[Hook] = []
        if not self.args.no_distill:
            hooks.append(SelfDistillation(self.dense, self.task.logits, self.args.distill_weight))
        result, notes = self._retrain(model, hooks), []
        if result is not None and result.best:
            before, best = self.results.score_before_retraining(), float(result.best["score"])
            if best < before:
                notes.append(f"Retraining reached {best:.4f}; the model as pruned has {before:.4f} and stays.")
                runner.log("%s", notes[0])
                model, result = load(pruned_path), None
        self.results.final(model, result, time.monotonic() - self.began, notes)
        return 0

    def _prune(self, groups: ChannelGroups, path: Path) -> GraphLayer:
        runner.log("Step 1/3: Start calculating the sensitivity of model parameters...")
        measured = self.args.sensitivity != "none" and not self.args.label_free
        self.results.before(self.dense, check_trained if measured else lambda metrics: None)
        importance, curves = Analysis(
            self.args, self.config, self.task, self.folder, groups, self.session.threads
        ).run()
        asked = self.goal.flops_removed if self.goal.flops_removed is not None else "by the goal given"
        runner.log("Step 2/3: Start to prune the model, the ratio of pruning is %s...", asked)
        if self.goal.latency_ms is not None:
            pruned, milliseconds = prune_to_latency(
                groups, curves, importance, self.goal, self.results.latencies, lambda line: runner.log("%s", line)
            )
            runner.log("Latency: asked %.2f ms, measured %.2f ms.", self.goal.latency_ms, milliseconds)
        else:
            pruned = prune_to(groups, curves, importance, self.goal)
        whole = 100 * pruned.flops_removed
        asked_text = f"{100 * self.goal.flops_removed:.2f} %" if self.goal.flops_removed is not None else "no ratio"
        runner.log("FLOPs: asked %s removed, achieved %.2f %% removed.", asked_text, whole)
        runner.log("Parameters: %d before, %d after.", *pruned.params)
        for name, (before, after) in pruned.widths.items():
            runner.log("  %s: %d -> %d", name, before, after)
        if pruned.widths and not (self.args.no_reconstruct or self.args.from_scratch):
            reconstruct_layers(self.args, self.task, pruned.model, self.dense)
        self.results.pruned(pruned)
        if self.main:
            save(pruned.model, path)
        return pruned.model

    def _train_sparse(self, groups: ChannelGroups) -> None:
        """Train with an L1 loss on the BatchNorm scales, in place."""
        names = sorted(groups.batch_norm_scales)
        if not names:
            raise UserError("--sparse_iters: the model has no BatchNorm.", "Leave it out.")
        runner.log("Sparse training of %d BatchNorm layers for %d iterations.", len(names), self.args.sparse_iters)
        hook = prune_hooks.SparseScales(self.dense, names, self.args.sparse_factor)
        self._fit(self.dense, "sparse_training", self.args.sparse_iters, [hook], best=False)

    # ---- training

    def _retrain(self, model: GraphLayer, hooks: list[Hook]) -> TrainResult | None:
        runner.log("Step 3/3: Start retraining the model.")
        if not self.args.retraining_iters:
            return None
        return self._fit(model, "retraining", self.args.retraining_iters, hooks, best=True)

    def _fit(self, model: GraphLayer, name: str, iters: int, hooks: list[Hook], best: bool) -> TrainResult:
        """Train in a folder of the run; with ``best`` the weights of the best evaluation stay in the model."""
        folder = self.folder / name
        settings = training.settings_of(
            self.args,
            self.config,
            self.session.threads,
            save_dir=folder,
            iters=iters,
            save_interval=min(self.args.save_interval, iters),
            do_eval=best,
            precision=precision(self.args),
            amp_level=self.args.amp_level,
        )
        dataset = self.task.train_dataset()
        resume = None
        if self.args.resume and any(folder.glob("iter_*")):
            resume = training.find_resume(str(folder), self.config, settings, len(dataset))
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
        names = sparse_weights(self.dense, self.args.only_1x1, self.args.keep)
        if not names:
            raise UserError("The model has no weight that may become sparse.", "Leave --only_1x1 and --keep out.")
        original = copy.deepcopy(self.dense)
        self.results.before(original)
        weights: dict[str, np.ndarray] = {name: self.dense.tensor(name).numpy() for name in names}
        schedule = None
        if self.args.method == "2:4":
            masks = two_of_four_masks(weights)
            runner.log("2:4: %d of %d weights have input channels in fours.", len(masks), len(names))
        else:
            start = 0.0 if self.args.method == "gmp" else self.args.pruning_ratio
            masks = magnitude_masks(weights, start)
            if self.args.method == "gmp":
                schedule = GradualSchedule(self.args.pruning_ratio, start, max(self.args.retraining_iters // 2, 1))
        hooks: list[Hook] = [prune_hooks.KeepZeros(self.dense, masks, schedule)]
        if not self.args.no_distill:
            hooks.append(SelfDistillation(original, self.task.logits, self.args.distill_weight))
        result = self._retrain(self.dense, hooks)
        part = achieved({name: self.dense.tensor(name).numpy() for name in masks})
        runner.log("Zeros: %.2f %% of the weights of %d layers.", 100 * part, len(masks))
        note = WHO_GAINS["2:4" if self.args.method == "2:4" else "unstructured"]
        runner.log("%s", note)
        self.dense.record.append({"step": "sparsify", "method": self.args.method, "zeros": part})
        self.results.final(self.dense, result, time.monotonic() - self.began, notes=(note,), base="dense")
        return 0

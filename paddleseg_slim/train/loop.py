"""The training loop: any Layer, any task."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.optimizer.lr import LRScheduler

from paddleseg_slim.data.loader import Loader
from paddleseg_slim.errors import TrainingDiverged, UserError
from paddleseg_slim.tasks.base import Batch, Forward, Metrics, Task
from paddleseg_slim.train import checkpoint as ckpt
from paddleseg_slim.train import ranks
from paddleseg_slim.train.ema import WeightAverage
from paddleseg_slim.train.evaluate import model_forward
from paddleseg_slim.train.hooks import Hook
from paddleseg_slim.train.logging import Logger, Loggers
from paddleseg_slim.train.progress import Progress, eta_text
from paddleseg_slim.train.validation import Validation
from paddleseg_slim.train.window import Window
from paddleseg_slim.version import __version__

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        iters: steps in all (a resumed run counts those done).
        batch_size: samples of a step on one device.
        save_dir: folder of the run.
        save_interval: steps between checkpoints (and evaluations).
        log_iters: steps between log lines.
        keep_checkpoint_max: checkpoints that stay; 0 keeps all.
        num_workers: threads that load data ahead; 0 loads in the main one.
        seed: of data order, augmentation and dropout.
        do_eval: evaluate at every checkpoint and keep the best weights.
        eval_batch_size: the most images of one size at once in an evaluation.
        test_config: how to infer in evaluations.
        precision: ``fp32`` or ``fp16`` (mixed precision).
        amp_level: ``O1`` or ``O2``.
        use_ema: also keep an average of the weights.
        early_stop_intervals: stop after so many evaluations without a better result; None never.
        best_from: the first step whose result may be the best: before, the model is not yet what it is to become.
        threads: CPU threads in force, for the manifest.
    """

    iters: int
    batch_size: int
    save_dir: Path
    save_interval: int = 1000
    log_iters: int = 10
    keep_checkpoint_max: int = 5
    num_workers: int = 1
    seed: int = 42
    do_eval: bool = True
    eval_batch_size: int = 8
    test_config: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    amp_level: str = "O1"
    use_ema: bool = False
    early_stop_intervals: int | None = None
    best_from: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        limits = {"iters": 1, "batch_size": 1, "save_interval": 1, "log_iters": 1, "keep_checkpoint_max": 0}
        for name, least in {**limits, "num_workers": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}.", f"It must be {least} or more.")
        if self.early_stop_intervals is not None and (self.early_stop_intervals < 1 or not self.do_eval):
            raise UserError("early_stop_intervals needs --do_eval and 1 or more.", "Add --do_eval, or leave it out.")

    def shared(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run that it continues."""
        names = ("iters", "batch_size", "seed", "precision", "amp_level", "use_ema")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TrainResult:
    """What a training reached.

    Attributes:
        iters: steps done.
        metrics: result of the last evaluation; None without one.
        best: ``score``, ``iter`` and ``metrics`` (a dict) of the best evaluation; empty without one.
        folder: the last checkpoint.
        seconds: time of this process in the loop.
        is_main: whether this process writes files (rank 0).
    """

    iters: int
    metrics: Metrics | None
    best: dict[str, Any]
    folder: Path
    seconds: float
    is_main: bool = True


def train(
    model: paddle.nn.Layer,
    task: Task,
    optimizer: Any,
    settings: TrainSettings,
    *,
    dataset: Any = None,
    hooks: Sequence[Hook] = (),
    logger: Logger | None = None,
    resume: ckpt.Checkpoint | None = None,
    config: dict[str, Any] | None = None,
    fingerprint: str = "",
    forward_of: Callable[[paddle.nn.Layer], Forward] = model_forward,
) -> TrainResult:
    """Train ``model``.

    A step is a function of the weights, the seed and its number, so a run that is killed and resumed equals one that
    was not, to the last digit on a CPU with the same number of threads.

    Args:
        model: any Layer, a GraphLayer included; its weights are changed in place.
        task: gives data, loss and metric.
        optimizer: of the model's parameters (`train.optim.build_optimizer`).
        settings: how long and how.
        dataset: what to train on; the task's training set when None.
        hooks: additions of a compression technique.
        logger: takes the numbers.
        resume: the checkpoint to go on from (`checkpoint.find_resume`).
        config: the resolved config, for the manifest.
        fingerprint: its hash.
        forward_of: makes what an evaluation in fp32 runs, of the model with its weights of that moment.

    Raises:
        TrainingDiverged: the loss or a weight became NaN or infinite; checkpoints are left as they were.
        UserError: the dataset is smaller than a batch, or ``resume`` does not fit.
    """
    loop = _Loop(model, task, optimizer, settings, task.train_dataset() if dataset is None else dataset)
    loop.hooks, loop.logger = list(hooks), logger or Loggers()
    loop.config, loop.fingerprint = config or {}, fingerprint
    loop.validation = Validation(task, settings, loop.logger, forward_of)
    if resume is not None:
        loop.resume(resume)
    return loop.run()


def check_batch(samples: int, batch_size: int) -> None:
    """Refuse a batch that is larger than the training set.

    Raises:
        UserError: it is, over all devices.
    """
    world = paddle.distributed.get_world_size()
    if samples < batch_size * world:
        raise UserError(
            f"The training set has {samples} samples, fewer than a batch of {batch_size}"
            + (f" on each of {world} devices." if world > 1 else "."),
            "Lower --batch_size, or give more data (train.py --repeats repeats it).",
        )


class _Loop:
    """The state of one run."""

    def __init__(
        self, model: paddle.nn.Layer, task: Task, optimizer: Any, settings: TrainSettings, dataset: Any
    ) -> None:
        self.rank, self.world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        check_batch(len(dataset), settings.batch_size)
        self.model, self.task, self.optimizer, self.settings, self.dataset = model, task, optimizer, settings, dataset
        self.per_epoch = len(dataset) // (settings.batch_size * self.world)
        self.start = 0
        self.hooks: list[Hook] = []
        self.logger: Logger = Loggers()
        self.config: dict[str, Any] = {}
        self.fingerprint = ""
        self.validation = Validation(task, settings, self.logger)
        self.ema = WeightAverage(model) if settings.use_ema else None
        self.mixed = settings.precision == "fp16"
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=1024) if self.mixed else None
        self.folder = settings.save_dir
        self.saved: Path | None = None
        self._window = Window()
        self._finite = 0

    def resume(self, resume: ckpt.Checkpoint) -> None:
        """Take over the state of a checkpoint."""
        ckpt.restore(resume, self.model, self.optimizer)
        self.start, self.folder, self.saved = resume.iter, resume.folder, resume.folder
        if resume.manifest is not None:
            self.validation.best = dict(resume.manifest.best)
        if self.ema is not None:
            self.ema.load(ckpt.read_extra(resume, "ema_model.pdparams"))
        if self.scaler is not None:
            self.scaler.load_state_dict(ckpt.read_extra(resume, "model.pdscaler"))
        for hook in self.hooks:
            hook.on_resume(resume.folder)

    def run(self) -> TrainResult:
        """Train from ``start`` to ``iters``."""
        settings, began = self.settings, time.monotonic()
        network = self._network()
        self.model.train()
        step = self.start
        with Progress(settings.iters, "[TRAIN]", done=step, lines=False) as progress:
            loader = iter(self._loader()) if step < settings.iters else iter(())
            self._window.reset()
            self._finite = step
            while step < settings.iters:
                batch = self._next(loader)
                step += 1
                self._step(network, batch, step)
                progress.step()
                if self._window.due(step, settings.log_iters) or step == settings.iters:
                    self._log(step)
                if step % settings.save_interval == 0 or step == settings.iters:
                    self._check_window(step)
                    self._save(step)
                    ranks.meet()
                    if self._stop_early():
                        break
                    self._window.pause()
        found = self.validation
        return TrainResult(step, found.metrics, found.best, self.folder, time.monotonic() - began, self.rank == 0)

    def _network(self) -> Any:
        """The model, in data-parallel form with several ranks."""
        if self.mixed and self.settings.amp_level == "O2":
            self.model, self.optimizer = paddle.amp.decorate(
                models=self.model, optimizers=self.optimizer, level="O2", save_dtype="float32"
            )
        ranks.meet()
        return paddle.DataParallel(self.model) if self.world > 1 else self.model

    def _loader(self) -> Loader:
        settings = self.settings
        return Loader(
            self.dataset,
            settings.batch_size,
            seed=settings.seed,
            num_workers=settings.num_workers,
            start_iter=self.start,
            rank=self.rank,
            world_size=self.world,
        )

    def _next(self, loader: Any) -> Batch:
        began = time.monotonic()
        batch = {
            key: paddle.to_tensor(value) if isinstance(value, np.ndarray) else value
            for key, value in next(loader).items()
        }
        self._window.reading += time.monotonic() - began
        return batch

    def _step(self, network: Any, batch: Batch, step: int) -> None:
        paddle.seed((self.settings.seed * 1_000_003 + step) * 1009 + self.rank)  # dropout: a function of the step
        for hook in self.hooks:
            hook.before_step(step)
        with self._precision():
            outputs = network(batch["img"])
            losses = dict(self.task.loss(outputs, batch))
            for hook in self.hooks:
                for name, value in hook.extra_loss(self.model, outputs, batch).items():
                    losses[name] = value
                    losses["loss"] = losses["loss"] + value
        if self.scaler is None:
            losses["loss"].backward()
            self.optimizer.step()
        else:
            scaled = self.scaler.scale(losses["loss"])
            scaled.backward()
            self.scaler.minimize(self.optimizer, scaled)
        self.optimizer.clear_grad()
        self._window.add(losses, float(self.optimizer.get_lr()))
        schedule = self.optimizer._learning_rate
        if isinstance(schedule, LRScheduler):
            schedule.step()
        if self.ema is not None:
            self.ema.update(step)
        for hook in self.hooks:
            hook.after_step(step)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self.mixed:
            return contextlib.nullcontext()
        white, black = {"elementwise_add", "batch_norm", "sync_batch_norm"}, {"bilinear_interp_v2"}
        return paddle.amp.auto_cast(level=self.settings.amp_level, custom_white_list=white, custom_black_list=black)

    def _epoch(self, step: int) -> int:
        return (step - 1) // self.per_epoch + 1

    def _log(self, step: int) -> None:
        """Write the log line of the steps since the last one; the only place where the host waits for the device."""
        window = self._window
        values = self._averages()
        self._refuse_nan(values["loss"], step)
        cost, reading = window.costs()
        ips = self.settings.batch_size / max(cost, 1e-9)
        if self.rank == 0:
            _LOG.info(
                "[TRAIN] epoch: %d, iter: %d/%d, loss: %.4f, lr: %.6f, batch_cost: %.4f, reader_cost: %.5f, "
                "ips: %.4f samples/sec | ETA %s",
                *(self._epoch(step), step, self.settings.iters, values["loss"], window.rate, cost, reading, ips),
                eta_text(cost * (self.settings.iters - step)),
            )
            costs = {"lr": window.rate, "batch_cost": cost, "reader_cost": reading}
            self.logger.scalars({f"Train/{name}": value for name, value in {**values, **costs}.items()}, step)
        window.reset()

    def _check_window(self, step: int) -> None:
        if self._window.count:
            self._refuse_nan(self._averages()["loss"], step)

    def _averages(self) -> dict[str, float]:
        """Average losses by name since the last log line, over all ranks, so that all of them decide alike."""
        values = self._window.averages()
        if self.world > 1:
            total = ranks.total(np.array(list(values.values()), "float64"))
            values = dict(zip(values, (total / self.world).tolist()))
        return values

    def _refuse_nan(self, loss: float, step: int) -> None:
        if math.isfinite(loss):
            self._finite = step
            return
        kept = f"the last good checkpoint is {self.saved}" if self.saved else "there is no checkpoint yet"
        raise TrainingDiverged(
            f"The loss became {loss} between the iterations {self._finite + 1} and {step}; {kept}.",
            "Lower --learning_rate, add a warm-up or clip gradients (optimizer.grad_clip_cfg), and resume from there.",
        )

    def _save(self, step: int) -> None:
        manifest = ckpt.Manifest(
            iter=step,
            epoch=self._epoch(step),
            config=self.config,
            settings={**self.settings.shared(), "samples": len(self.dataset), "world_size": self.world},
            fingerprint=self.fingerprint,
            threads=self.settings.threads,
            versions=versions(),
        )
        improved = self.validation.run(self.model, self.ema, step) if self.settings.do_eval else {}
        if self.rank != 0:
            return
        metrics = self.validation.metrics
        manifest.metrics, manifest.best = dict(metrics.values) if metrics else {}, dict(self.validation.best)
        run = self.settings.save_dir
        for name, (file, state) in improved.items():  # first, so that a kill between the two repeats this interval
            ckpt.write_best(run, name, file, state(), manifest)
        extra: dict[str, Any] = {"ema_model.pdparams": self.ema.state_dict()} if self.ema is not None else {}
        if self.scaler is not None:
            extra["model.pdscaler"] = self.scaler.state_dict()
        self.folder = self.saved = ckpt.write_checkpoint(
            run,
            self.model,
            self.optimizer,
            manifest,
            extra=extra,
            keep=self.settings.keep_checkpoint_max,
            on_save=self._hooks_save,
        )

    def _hooks_save(self, folder: Path) -> None:
        for hook in self.hooks:
            hook.on_save(folder)

    def _stop_early(self) -> bool:
        patience = self.settings.early_stop_intervals
        if patience is None or self.validation.best.get("intervals", 0) < patience:
            return False
        _LOG.info("Early stop: no better result in %d evaluations.", patience)
        return True


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "paddleseg_slim": __version__,
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def check_same_run(
    resume: ckpt.Checkpoint, differences: Sequence[str], settings: TrainSettings, samples: int, threads: int
) -> None:
    """Refuse to resume a run with another config or other settings.

    Args:
        resume: the checkpoint.
        differences: differing keys of the two configs (`Config.differences`).
        settings: of the resuming run.
        samples: size of its training set.
        threads: its CPU threads; another number is only warned about.

    Raises:
        UserError: something differs; the keys are named.
    """
    if resume.manifest is None:
        _LOG.warning("%s has no manifest: whether config and data are the same is not known.", resume.folder)
        return
    now = {**settings.shared(), "samples": samples, "world_size": paddle.distributed.get_world_size()}
    before = resume.manifest.settings
    changed = [f"{key}: {now[key]}, was {before[key]}" for key in now if key in before and now[key] != before[key]]
    changed += [line for line in differences if line.split(":")[0] not in now]
    if changed:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UserError(
            f"{resume.folder} belongs to a run with other settings: {shown}.",
            "Resume with the same config and flags, or start a new run from its weights with --model_path.",
        )
    if resume.manifest.threads != threads:
        _LOG.warning(
            "The run had %d threads, now %d: results can differ in the last digit.", resume.manifest.threads, threads
        )

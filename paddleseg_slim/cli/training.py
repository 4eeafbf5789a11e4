"""What the commands that train share: ``train``, and the retraining of ``prune``, ``quant`` and ``distill``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_slim.cli import arguments, runner
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    import paddle

    from paddleseg_slim.config import Config
    from paddleseg_slim.graph.cost import Cost
    from paddleseg_slim.tasks.base import Task
    from paddleseg_slim.train.checkpoint import Checkpoint
    from paddleseg_slim.train.hooks import Hook
    from paddleseg_slim.train.loop import TrainResult, TrainSettings


def add_schedule(parser: argparse.ArgumentParser, iters: bool = True) -> None:
    """Flags on the course of a training.

    Args:
        parser: of the command.
        iters: add ``--iters``; False for a command with ``--retraining_iters``.
    """
    if iters:
        parser.add_argument("--iters", type=int, metavar="N", help="training steps; default: the config's")
    parser.add_argument("--batch_size", type=int, metavar="N", help="samples of a step on one device")
    parser.add_argument("--learning_rate", type=float, metavar="RATE", help="default: the config's")
    parser.add_argument("--save_interval", type=int, default=1000, metavar="N", help="steps between checkpoints")
    parser.add_argument("--keep_checkpoint_max", type=int, default=5, metavar="N", help="checkpoints kept; 0: all")
    parser.add_argument("--log_iters", type=int, default=10, metavar="N", help="steps between log lines")
    parser.add_argument("--num_workers", type=int, default=1, metavar="N", help="threads that load data ahead")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of data order, augmentation, dropout")
    parser.add_argument("--use_vdl", action="store_true", help="write logs for VisualDL")


def check_schedule(args: argparse.Namespace) -> None:
    """Say what is wrong with the flags of `add_schedule` alone.

    Raises:
        UserError: a number makes no sense.
    """
    limits = {"batch_size": 1, "save_interval": 1, "log_iters": 1, "keep_checkpoint_max": 0, "num_workers": 0}
    arguments.at_least(args, **limits, seed=0)
    arguments.above_zero(args, "learning_rate")


def settings_of(
    args: argparse.Namespace, config: Config, threads: int, *, save_dir: str | Path | None = None, **other: Any
) -> TrainSettings:
    """The settings of a training by the flags of `add_schedule`.

    Args:
        args: the parsed flags; ``save_dir`` is read from them when not given here.
        config: its ``iters`` and ``batch_size`` have the flags' values already (``load_config(overrides=...)``).
        threads: CPU threads in force.
        save_dir: folder of the run.
        other: further fields of `TrainSettings`.
    """
    from paddleseg_slim.train.loop import TrainSettings

    values: dict[str, Any] = {
        "iters": config.iters,
        "batch_size": config.batch_size,
        "save_dir": Path(args.save_dir if save_dir is None else save_dir),
        **{name: getattr(args, name) for name in ("save_interval", "log_iters", "keep_checkpoint_max")},
        **{name: getattr(args, name) for name in ("num_workers", "seed")},
        "test_config": config.test_config,
        "threads": threads,
        **other,
    }
    return TrainSettings(**values)


def check(settings: TrainSettings, config: Config, model: paddle.nn.Layer, task: Task) -> None:
    """Say what a training will be refused for, before anything long.

    Raises:
        UserError: optimizer and schedule of the config cannot be made for the parameters of ``model``, or the training
            set is smaller than a batch.
    """
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.train import loop, optim

    steps = [entry.get("step") for entry in model.record] if isinstance(model, GraphLayer) else []
    if "sparsify" in steps:
        runner.log("The zeros that slim/prune.py --method made in this model fill up again: nothing keeps them here.")
    loop.check_batch(len(task.train_dataset()), settings.batch_size)
    optim.build_optimizer(config.optimizer, optim.build_schedule(config.lr_scheduler, settings.iters), model)


def goes_on(resume: Checkpoint | None, run: str | Path) -> bool:
    """Whether the run that is resumed is the one in the folder ``run``."""
    return resume is not None and resume.folder.parent.resolve() == Path(run).resolve()


def find_resume(path: str | None, config: Config, settings: TrainSettings, samples: int) -> Checkpoint | None:
    """The checkpoint of ``--resume_model``, checked to belong to the same run.

    Args:
        path: the flag's value.
        config: of this run.
        settings: of this run.
        samples: size of its training set.

    Raises:
        UserError: there is none, or config or settings differ; the keys are named.
    """
    if not path:
        return None
    from paddleseg_slim.train import checkpoint

    return _of_this_run(checkpoint.find_resume(path), config, settings, samples)


def find_latest(config: Config, settings: TrainSettings, samples: int) -> Checkpoint | None:
    """The latest whole checkpoint in the folder of the training, checked as by `find_resume`; None if there is none.

    Raises:
        UserError: config or settings differ; the keys are named.
    """
    from paddleseg_slim.train import checkpoint

    run = settings.save_dir
    if not any(run.glob("iter_*")):
        return None
    found = checkpoint.find_latest(run)
    if found is None:
        runner.log("No checkpoint in %s is whole: the training starts anew.", run)
        return None
    return _of_this_run(found, config, settings, samples)


def _of_this_run(found: Checkpoint, config: Config, settings: TrainSettings, samples: int) -> Checkpoint:
    from paddleseg_slim.train import loop

    differences = config.differences(found.manifest.config) if found.manifest else []
    loop.check_same_run(found, differences, settings, samples, settings.threads)
    runner.log("Resume from %s.", found.folder)
    return found


def fit(
    model: paddle.nn.Layer,
    task: Task,
    config: Config,
    settings: TrainSettings,
    *,
    dataset: Any = None,
    hooks: Sequence[Hook] = (),
    resume: Checkpoint | None = None,
    use_vdl: bool = False,
    engine: str = "auto",
) -> TrainResult:
    """Train ``model`` with the optimizer and schedule of ``config``, with logs in ``settings.save_dir``.

    Args:
        model: any Layer, a GraphLayer included.
        task: gives data, loss and metric.
        config: its ``iters`` set the length of the schedule.
        settings: how long and how.
        dataset: what to train on; the task's training set when None.
        hooks: additions of a compression technique.
        resume: the checkpoint to go on from.
        use_vdl: also write logs for VisualDL.
        engine: what evaluates (`evaluation.Forwards`).

    Raises:
        TrainingDiverged, UserError: see `train.loop.train`.
    """
    import paddle

    from paddleseg_slim.cli.evaluation import Forwards
    from paddleseg_slim.train import loop, optim
    from paddleseg_slim.train.evaluate import model_forward
    from paddleseg_slim.train.logging import CurveLogger, Logger, Loggers, VisualDLLogger

    schedule = optim.build_schedule(config.lr_scheduler, settings.iters)
    optimizer = optim.build_optimizer(config.optimizer, schedule, model)
    images = len(task.val_dataset()) if settings.do_eval else 0
    loggers: list[Logger] = []
    if paddle.distributed.get_rank() == 0:
        loggers.append(CurveLogger(settings.save_dir, resume.iter if resume else 0))
        if use_vdl:
            loggers.append(VisualDLLogger(settings.save_dir))
    logger = Loggers(loggers)
    try:
        return loop.train(
            model,
            task,
            optimizer,
            settings,
            dataset=dataset,
            hooks=hooks,
            logger=logger,
            resume=resume,
            config=config.to_dict(),
            fingerprint=config.fingerprint(),
            forward_of=Forwards(task, engine, settings.threads, images, settings.eval_batch_size)
            if settings.do_eval
            else model_forward,
        )
    finally:
        logger.close()


def write_stage(
    folder: Path, model: paddle.nn.Layer, task: Task, result: TrainResult, *, name: str = "train", kind: str = "train"
) -> None:
    """Write ``stage.json``, what the report shows of a training, with the MACs and predictions of the best model.

    Args:
        folder: of the run.
        model: that was trained; it gets the best weights, if any were evaluated.
        task: it was trained for.
        result: of `fit`.
        name: of the stage.
        kind: of the stage (`report.stage.KINDS`).
    """
    from paddleseg_slim.cli import samples
    from paddleseg_slim.deploy.runtimes.machine import describe_machine
    from paddleseg_slim.report import stage
    from paddleseg_slim.train.evaluate import model_forward
    from paddleseg_slim.train.logging import read_curves
    from paddleseg_slim.train.weights import load_weights

    best = result.best.get("metrics")
    if best:
        load_weights(model, folder / "best_model" / "model.pdparams")
    tags = {"Train/loss": "loss", f"Evaluate/{task.primary}": task.primary}
    curves = {tags[tag]: points for tag, points in read_curves(folder).items() if tag in tags}
    shape = (1, *np.asarray(task.train_dataset()[(0, 0)]["img"]).shape)
    counted = _cost(model, task, shape)
    stage.write_stage(
        folder,
        stage.Stage(
            name=name,
            kind=kind,
            command=shlex.join(["python", *sys.argv]),
            accuracy=stage.Accuracy(**best) if best else None,
            params=counted.parameters if counted else sum(int(p.size) for p in model.parameters()),
            macs=counted.macs if counted else None,
            files=stage.file_sizes(folder, f"{'best_model' if best else result.folder.name}/*.pdparams"),
            environment=describe_machine(),
            samples=samples.write(folder, task, model_forward(model)) if best else (),
            seconds=result.seconds,
            curves=curves,
            input_shape=shape,
        ),
    )


def _cost(model: paddle.nn.Layer, task: Task, shape: tuple[int, ...]) -> Cost | None:
    """Costs of ``model`` without its auxiliary heads; None, and a line in the log, if it cannot be captured."""
    from paddleseg_slim.deploy.head import with_head
    from paddleseg_slim.graph import GraphLayer, capture, cost

    try:
        size = (shape[2], shape[3])
        known = isinstance(model, GraphLayer)
        graph = model if known else capture(model, task.input_spec(), verify=False, fixed_size=size)
        return cost(with_head(graph, task.logits, "none").eval_graph, [shape])
    except UserError as error:
        runner.log("MACs are not counted: %s", error.cause)
        return None

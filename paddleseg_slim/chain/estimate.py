"""About how long a chain will take: measured times of earlier runs, else a few measured steps times their number."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.table import Table

from paddleseg_slim.chain import verbs
from paddleseg_slim.chain.plan import KEEP, Decision, Plan
from paddleseg_slim.chain.recipe import Step
from paddleseg_slim.chain.state import Record, State
from paddleseg_slim.config import Config

_STARTUP_SECONDS = 6.0


@dataclass(frozen=True)
class Work:
    """What a command has to do, roughly.

    Attributes:
        steps: option that says how many training steps, if there is one.
        step_factor: time of such a step / time of a plain training step.
        evaluations: how often the validation set is run through.
        seconds: what it takes besides.
    """

    steps: str = ""
    step_factor: float = 1.0
    evaluations: float = 0.0
    seconds: float = 0.0


_WORK = {
    "train": Work("iters", 1.0, 2.0),
    "prune": Work("retraining_iters", 1.4, 8.0, 20.0),
    "sparsify": Work("retraining_iters", 1.4, 4.0),
    "distil": Work("iters", 1.5, 2.0),
    "ptq": Work(evaluations=4.0, seconds=20.0),
    "qat": Work("retraining_iters", 1.8, 3.0, 10.0),
    "export": Work(seconds=4.0),
    "eval": Work(evaluations=1.0),
    "bench": Work(seconds=40.0),
    "report": Work(seconds=3.0),
}
"""Factors observed with the quick start's models on a CPU: an estimate, not a promise."""


@dataclass(frozen=True)
class Pace:
    """Measured times of one training step and of one evaluated image, in seconds."""

    train_step: float
    image: float
    val_images: int


def measure_pace(config: Config, steps: int = 3) -> Pace:
    """Time a few training steps and one evaluation batch of the config's model (dense, random weights)."""
    import numpy as np
    import paddle

    from paddleseg_slim.tasks import build_task

    task = build_task(config)
    model, data = task.build_model(), task.train_dataset()
    samples = [data[(0, index % len(data))] for index in range(config.batch_size)]
    batch = {key: paddle.to_tensor(np.stack([sample[key] for sample in samples])) for key in ("img", "label")}
    model.train()
    times = []
    for _ in range(steps):
        began = time.monotonic()
        task.loss(model(batch["img"]), batch)["loss"].backward()
        model.clear_gradients()
        times.append(time.monotonic() - began)
    model.eval()
    began = time.monotonic()
    with paddle.no_grad():
        np.asarray(task.logits(model(batch["img"])))
    image = (time.monotonic() - began) / config.batch_size
    return Pace(min(times), image, len(task.val_dataset()))


def estimate(plan: Plan, step: Step, record: Record | None, pace: Pace) -> float:
    """Seconds that a step will take: those of its last complete run, else by its work."""
    if record is not None and record.status == "done":
        return record.seconds
    work = _WORK[step.verb]
    count = 0
    if work.steps:
        args = verbs.check(step.row, plan.arguments(step), step.name)
        count = getattr(args, work.steps, None) or plan.config_of(step).iters
    training = count * work.step_factor * pace.train_step
    return _STARTUP_SECONDS + training + work.evaluations * pace.val_images * pace.image + work.seconds


def dry_run_table(plan: Plan) -> Table:
    """A row a step: what would be done with it, why, and about how long."""
    state = State.read(plan.folder)
    pace = measure_pace(plan.config)
    table = Table("step", "command", "what", "why", "about", title=f"{plan.recipe.path}: dry run")
    anew: set[str] = set()
    total = 0.0
    for step in plan.steps.values():
        decision = plan.decide(step, state, anew)
        seconds = 0.0 if decision.action == KEEP else estimate(plan, step, state.steps.get(step.name), pace)
        if decision.action != KEEP:
            anew.add(step.name)
        total += seconds
        table.add_row(step.name, step.row.command, decision.action, _why(decision), _clock(seconds))
    table.add_row("", "", "", "in all (a recipe with a goal stops when it is reached)", _clock(total))
    return table


def _why(decision: Decision) -> str:
    return "; ".join(decision.reasons[:3]) + ("; ..." if len(decision.reasons) > 3 else "")


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"

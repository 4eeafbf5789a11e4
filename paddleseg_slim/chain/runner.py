"""Run a chain: every step in its own process, its state on disk before and after."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from paddleseg_slim.chain import stages, verbs
from paddleseg_slim.chain import state as states
from paddleseg_slim.chain.goal import Attempt, attempt_of, best_of
from paddleseg_slim.chain.plan import KEEP, RESUME, Decision, Plan
from paddleseg_slim.chain.recipe import START, Step
from paddleseg_slim.chain.state import Record, State
from paddleseg_slim.errors import GoalNotMet, SlimError, UserError

_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[2]
_ORPHAN_SECONDS = 60
_EXIT_CODES = {2: UserError, 3: GoalNotMet}


class Chain:
    """A plan that is being carried out.

    Args:
        plan: what to do; checked already (`Plan.check`).
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state = State.read(plan.folder)
        for config in (plan.config_of(step) for step in plan.steps.values()):
            self.state.configs[states.config_digest(config.raw)] = config.to_dict()

    def run(self) -> None:
        """Run what has to run.

        Raises:
            GoalNotMet: no try of a recipe with a goal reached it.
            SlimError: a step failed; its own message stands above.
        """
        recipe = self.plan.recipe
        self._forget_strangers()
        self._run_steps(recipe.steps)
        if recipe.goal is None:
            return
        attempts: list[Attempt] = []
        for item in recipe.tries:
            _LOG.info("Try %s.", item.name)
            self._run_steps(item.steps)
            attempts.append(attempt_of(self.plan, item))
            _LOG.info("Try %s: %s.", item.name, attempts[-1].sentence)
            if attempts[-1].reaches(recipe.goal):
                _LOG.info("The goal is reached by %s.", item.name)
                return
        best = best_of(attempts, recipe.goal)
        if best is not attempts[-1]:  # each try wrote its report over that of the one before
            chosen = recipe.tries[attempts.index(best)]
            self._run_steps([step for step in chosen.steps if step.row.sees_all])
        raise GoalNotMet(
            f"No try reached {recipe.goal.speedup:g}x at {recipe.goal.max_drop:g} points lost; "
            f"the best is {best.name}: {best.sentence}.",
            f"It is in {self.plan.folder} ({best.name}-*). Allow more retraining, or lower the goal.",
        )

    def _run_steps(self, steps: Sequence[Step]) -> None:
        for number, step in enumerate(steps, 1):
            decision = self.plan.decide(step, self.state, set())
            title = f"[{number}/{len(steps)}] {step.name}"
            if decision.action == KEEP:
                _LOG.info("%s: done (%.0f s).", title, self.state.steps[step.name].seconds)
                continue
            word = "goes on" if decision.action == RESUME else "runs"
            _LOG.info("%s %s: %s.", title, word, "; ".join(decision.reasons[:5]))
            self._run_step(step, decision)

    def _run_step(self, step: Step, decision: Decision) -> None:
        """Run one step to its end, and write down what it left."""
        folder, old = self.plan.folder_of(step), self.state.steps.get(step.name)
        _wait_for(old)
        resumes = decision.action == RESUME and old is not None
        if not resumes:
            shutil.rmtree(folder, ignore_errors=True)
        record = Record("running", self.plan.made_of(step, self.state))
        record.seconds = old.seconds if resumes and old is not None else 0.0
        record.command = [step.row.command, *self.plan.arguments(step)]
        further = _resume_arguments(step, folder)
        self.state.steps[step.name] = record
        began = time.monotonic()
        code = self._call([*record.command, *further], record)
        record.seconds += time.monotonic() - began
        if code:
            self.state.write()
            raise _EXIT_CODES.get(code, SlimError)(
                f"The step {step.name} ended with exit code {code}.", "Its message stands above; go on with --resume."
            )
        stages.rename(folder, step.name, self.plan.base_of(step), START, self.plan.labels(step))
        record.status, record.files = "done", states.outputs(folder) if folder.is_dir() else {}
        self.state.write()

    def _call(self, command: Sequence[str], record: Record) -> int:
        """Run a command in a process of its own; it ends when this process does."""
        _LOG.info("paddleseg-slim %s", shlex.join(command))
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self.state.write()
        process = subprocess.Popen(
            [sys.executable, "-m", "paddleseg_slim.chain.child", *command], stdin=subprocess.PIPE, env=environment
        )
        with contextlib.suppress(psutil.NoSuchProcess):
            record.process = [float(process.pid), psutil.Process(process.pid).create_time()]
        self.state.write()
        try:
            return process.wait()
        except KeyboardInterrupt:  # the process has the signal, too
            process.wait()
            raise
        finally:
            assert process.stdin is not None
            process.stdin.close()

    def _forget_strangers(self) -> None:
        """Remove what steps left that are no longer in the recipe."""
        for name in [name for name in self.state.steps if name not in self.plan.steps]:
            _LOG.info("%s is no longer in the recipe: removed.", name)
            _wait_for(self.state.steps[name])
            shutil.rmtree(self.plan.folder / name, ignore_errors=True)
            del self.state.steps[name]


def clear(folder: Path) -> None:
    """Remove what a chain left in ``folder``, and nothing else."""
    state = State.read(folder)
    for name, record in state.steps.items():
        _wait_for(record)
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / states.FILE_NAME).unlink(missing_ok=True)


def _resume_arguments(step: Step, folder: Path) -> list[str]:
    """What tells the command to go on in its folder, if there is something to go on with."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    parser = verbs.parser_of(step.row)
    if verbs.has_option(parser, "resume"):
        return ["--resume"]
    checkpoint = next(iter(sorted(folder.rglob("iter_*/manifest.json"))), None)
    if verbs.has_option(parser, "resume_model") and checkpoint is not None:
        return ["--resume_model", str(checkpoint.parents[1])]
    return ["--overwrite"] if verbs.has_option(parser, "overwrite") else []


def _wait_for(record: Record | None) -> None:
    """Wait until the process of a killed chain's step has noticed that it is an orphan.

    Raises:
        UserError: it goes on.
    """
    if record is None or record.status == "done" or len(record.process) != 2:
        return
    pid, started = int(record.process[0]), record.process[1]
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) < 1:
            process.wait(_ORPHAN_SECONDS)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        raise UserError(f"The process {pid} of this run still works.", "End it, then resume.") from None

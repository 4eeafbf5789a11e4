"""Whether a try reached the goal of a recipe: read from the stages that its steps left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paddleseg_slim.chain.plan import Plan
from paddleseg_slim.chain.recipe import Goal, Step, Try
from paddleseg_slim.chain.stages import stages_of
from paddleseg_slim.errors import UserError
from paddleseg_slim.report.stage import Latency, Stage


@dataclass(frozen=True)
class Attempt:
    """What a try reached.

    Attributes:
        name: of the try.
        speedup: against the goal's base, in one benchmark.
        drop: accuracy lost, in points of 0.01.
        engine: where the speed-up was measured.
    """

    name: str
    speedup: float
    drop: float
    engine: str

    @property
    def sentence(self) -> str:
        """In words."""
        return f"{self.speedup:.2f}x in {self.engine} at {self.drop:.2f} points lost"

    def reaches(self, goal: Goal) -> bool:
        """Whether this is enough."""
        return self.speedup >= goal.speedup and self.drop <= goal.max_drop


def best_of(attempts: Sequence[Attempt], goal: Goal) -> Attempt:
    """The attempt nearest to the goal: the fastest that loses little enough, else the one that loses least."""
    good = [item for item in attempts if item.drop <= goal.max_drop]
    return max(good, key=lambda item: item.speedup) if good else min(attempts, key=lambda item: item.drop)


def attempt_of(plan: Plan, item: Try) -> Attempt:
    """Read what the steps of a try left.

    Raises:
        UserError: no accuracy, or no measured speed-up.
    """
    goal = plan.recipe.goal
    assert goal is not None
    known = {stage.name: stage for step in (*plan.recipe.steps, *item.steps) for stage in _stages(plan, step)}
    own = [known[step.name] for step in item.steps if step.name in known]
    before = known[goal.base].accuracy if goal.base in known else None
    after = next((stage.accuracy for stage in reversed(own) if stage.accuracy), None)
    speeds = [row for stage in own for row in stage.latency if _counts(row, goal)]
    if before is None or after is None or not speeds:
        lacks = "a measured speed-up" if before and after else f"the accuracy {'after' if before else 'before'}"
        raise UserError(
            f"The try {item.name} has no stage with {lacks}.",
            f"Add a bench step with a model of it and {goal.base}, and steps (prune, ptq, eval) that evaluate.",
        )
    fastest = min(speeds, key=lambda row: row.median_ms)
    drop = round((before.score - after.score) * 100, 6)  # 0.7 to 0.699 is 0.1, not 0.10000000000000009
    return Attempt(item.name, fastest.speedup or 0.0, drop, fastest.engine)


def _counts(row: Latency, goal: Goal) -> bool:
    return row.speedup is not None and row.base == goal.base != row.stage and goal.engine in ("", row.engine)


def _stages(plan: Plan, step: Step) -> Iterator[Stage]:
    return (stage for _, stage in stages_of(plan.folder_of(step)))

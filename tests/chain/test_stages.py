"""Names of stages in a chain, and what a goal reads from them."""

from __future__ import annotations

import tiny
import yaml

from paddleseg_slim.chain.goal import Attempt, attempt_of, best_of
from paddleseg_slim.chain.plan import Plan
from paddleseg_slim.chain.recipe import Goal, load_recipe
from paddleseg_slim.chain.stages import rename, stages_of
from paddleseg_slim.report.stage import Accuracy, Latency, Stage, find_stages, write_stage


def _accuracy(score: float) -> Accuracy:
    return Accuracy("mIoU", {"mIoU": score})


def _prune_stages(folder) -> None:
    for place, name, base, score in (
        (folder / "dense", "dense", None, 0.70),
        (folder / "pruned", "pruned", "dense", 0.50),
        (folder, "retrained", "dense", 0.68),
    ):
        place.mkdir(parents=True, exist_ok=True)
        write_stage(place, Stage(name, "prune", "x", accuracy=_accuracy(score), base=base))


def test_stages_get_unique_names_and_their_base_in_the_chain(tmp_path):
    """Two prunings in a row: the second's copy of its input is the first's result, and is not reported twice."""
    for name, base in (("first", ""), ("second", "first")):
        _prune_stages(tmp_path / name)
        for _ in range(2):  # a second time changes nothing
            rename(tmp_path / name, name, base, "start")
    found = {stage.name: stage.base for _, stage in find_stages([tmp_path])}
    assert found == {
        **{"start": None, "first": "start", "first.pruned": "start"},
        **{"second": "first", "second.pruned": "first"},
    }
    assert not (tmp_path / "second" / "dense" / "stage.json").exists()


def test_a_goal_compares_the_end_of_a_try_with_the_start(tmp_path):
    tiny.write_config(tmp_path)
    (tmp_path / "w.pdparams").write_bytes(b"x")
    steps = [
        {"prune": {"name": "p", "pruning_ratio": 0.3, "retraining_iters": 1}},
        {"bench": {"models": ["start=@p/dense", "p=@p"]}},
    ]
    data = {
        **{"config": "tiny.yml", "model": "w.pdparams", "goal": {"speedup": 2.0, "max_drop": 0.3}},
        "tries": [{"name": "a", "steps": steps}, {"name": "b", "steps": steps}],
    }
    (tmp_path / "r.yml").write_text(yaml.safe_dump(data), encoding="utf-8")
    plan = Plan(load_recipe(tmp_path / "r.yml"), tmp_path / "out")
    plan.check()
    assert plan.arguments(plan.steps["a-bench"])[1].startswith("p=") and "a-p" in plan.steps
    _prune_stages(plan.folder / "a-p")
    rename(plan.folder / "a-p", "a-p", "", "start")
    row = {"device": "cpu", "threads": 1, "input_shape": (1, 3, 32, 32), "p90_ms": 1.0}
    latency = (
        Latency(engine="onnxruntime", median_ms=4.0, speedup=1.0, base="start", stage="start", **row),
        Latency(engine="onnxruntime", median_ms=1.6, speedup=2.5, base="start", stage="p", **row),
    )
    (plan.folder / "a-bench").mkdir()
    write_stage(plan.folder / "a-bench", Stage("a-bench", "bench", "x", latency=latency))
    step = plan.steps["a-bench"]
    rename(plan.folder / "a-bench", "a-bench", plan.base_of(step), "start", plan.labels(step))
    ((_, bench),) = stages_of(plan.folder / "a-bench")
    assert [entry.stage for entry in bench.latency] == ["start", "a-p"]
    attempt = attempt_of(plan, plan.recipe.tries[0])
    assert (attempt.speedup, attempt.engine, round(attempt.drop, 3)) == (2.5, "onnxruntime", 2.0)
    assert not attempt.reaches(plan.recipe.goal)
    assert {stage.name for _, stage in stages_of(plan.folder / "a-p")} == {"a-p", "start", "a-p.pruned"}


def test_the_best_attempt_is_the_fastest_that_loses_little():
    fast, small, slow = Attempt("f", 3.0, 2.0, "e"), Attempt("s", 1.8, 0.2, "e"), Attempt("l", 1.2, 0.1, "e")
    assert best_of([fast, small, slow], Goal(2.0, 0.3)) is small
    assert best_of([fast], Goal(2.0, 0.3)) is fast
    assert Attempt("x", 2.0, 0.3, "e").reaches(Goal(2.0, 0.3))

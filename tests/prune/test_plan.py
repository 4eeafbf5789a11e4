"""From a goal to a pruned model."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.errors import GoalNotMet, UserError
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.old_pickle import is_pickle, read_curves, read_sensitivities
from paddleseg_slim.prune.plan import Goal, check_goal, check_latency, is_met, prune_to, prune_to_latency
from paddleseg_slim.prune.sparsity import GradualSchedule, achieved, magnitude_masks, sparse_weights, two_of_four_masks
from paddleseg_slim.prune.surgery import cut_optimizer_state


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_asked_is_reached_within_one_percent(case: Any, ratio: float) -> None:
    pruned = prune_to(*case, Goal(flops_removed=ratio, align=1))
    assert ratio - 1e-6 <= pruned.flops_removed <= ratio + 0.01


def test_widths_are_aligned_or_untouched(case: Any) -> None:
    pruned = prune_to(*case, Goal(flops_removed=0.3, align=8))
    assert pruned.flops_removed >= 0.3 and pruned.widths
    assert all(after % 8 == 0 for _, after in pruned.widths.values())


def test_higher_ratio_is_never_larger(case: Any) -> None:
    macs = [prune_to(*case, Goal(flops_removed=r)).macs[1] for r in (0.0, 0.2, 0.4, 0.6)]
    assert macs == sorted(macs, reverse=True) and macs[0] == round(case[0].macs(case[0].widths))


def test_parameters(case: Any) -> None:
    goal = Goal(params=0.6 * case[0].parameters(case[0].widths))
    assert prune_to(*case, goal).params[1] <= goal.params


def test_an_auxiliary_head_is_not_counted(case: Any) -> None:
    every = find_groups(case[0].model, 64)
    assert every.macs(every.widths) > case[0].macs(case[0].widths)


def test_kept_layers_stay_and_a_typo_is_an_error(case: Any) -> None:
    pruned = prune_to(
        *case, Goal(flops_removed=0.1, keep=("global_feature_extractor",), limits=(("classifier", 0.25),))
    )
    assert not any("global_feature_extractor" in name for name in pruned.widths)
    assert all(after >= 0.75 * before for name, (before, after) in pruned.widths.items() if "classifier" in name)
    with pytest.raises(UserError, match="matches no layer") as error:
        prune_to(*case, Goal(flops_removed=0.3, keep=("clasifier",)))
    assert "classifier" in error.value.remedy


def test_a_group_with_a_curve_and_no_importance_stays(case: Any) -> None:
    """As with the curves of a ``sen.pickle`` and a criterion that cannot judge every group."""
    groups, curves, importance = case
    first = max(prune_to(*case, Goal(flops_removed=0.1)).widths, key=lambda name: groups.by_name[name].width)
    judged = {name: scores for name, scores in importance.items() if name != first}
    assert first not in prune_to(groups, curves, judged, Goal(flops_removed=0.1)).widths


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan")])
def test_a_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(UserError, match="pruning ratio"):
        Goal(flops_removed=ratio)


def test_too_much_says_what_is_possible(case: Any) -> None:
    with pytest.raises(GoalNotMet, match=r"% removed"):
        prune_to(*case, Goal(flops_removed=0.99, align=16))


@pytest.mark.parametrize(
    ("goal", "error", "text"),
    [
        (Goal(flops_removed=0.99, align=16), GoalNotMet, r"FLOPs cannot come down to .* \(99.0 % removed\)"),
        (Goal(params=10), GoalNotMet, r"Parameters cannot come down to 10 .* of 1,\d\d\d,\d\d\d remain"),
        (Goal(flops_removed=0.3, align=1000), GoalNotMet, r" 0\.0 % removed"),
        (Goal(flops_removed=0.3, keep=("",)), GoalNotMet, "remain"),
        (Goal(flops_removed=0.3, keep=("(",)), UserError, "no regular expression"),
        (Goal(flops_removed=0.3, limits=(("classifeir", 0.5),)), UserError, "matches no layer"),
    ],
)
def test_what_the_widths_alone_make_impossible(case: Any, goal: Goal, error: type, text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        check_goal(case[0], goal)
    if "classifeir" in text:
        assert "classifier.conv" in raised.value.remedy


def test_a_goal_that_is_met_already(case: Any) -> None:
    groups = case[0]
    check_goal(groups, Goal(flops_removed=0.3))
    assert is_met(groups, Goal(flops_removed=0)) and is_met(groups, Goal(params=1e9))
    for goal in (Goal(flops_removed=0.1), Goal(params=1e9, latency_ms=1), Goal(max_drop=0.1)):
        assert not is_met(groups, goal)


def test_latency_is_measured_not_believed(case: Any) -> None:
    """An engine with a fixed part of 4 ms and 6 ms that follow the FLOPs."""
    groups = case[0]
    whole = groups.macs(groups.widths)

    def measure(models: Any) -> list[float]:
        return [4 + 6 * g.macs(g.widths) / whole for g in (find_groups(m, 64, groups.pick) for m in models)]

    pruned, time = prune_to_latency(*case, Goal(latency_ms=7.5, align=1), measure)
    assert 7.2 <= time <= 7.5 and pruned.flops_removed == pytest.approx(0.43, abs=0.04)
    with pytest.raises(GoalNotMet, match="fastest"):
        prune_to_latency(*case, Goal(latency_ms=4.01), measure, rounds=2)
    check_latency(groups, Goal(latency_ms=7.5), measure)
    with pytest.raises(GoalNotMet, match=r"4.01 ms cannot be reached.* unpruned 10.00 ms"):
        check_latency(groups, Goal(latency_ms=4.01), measure)


def test_a_time_that_was_short_by_chance_is_not_taken(case: Any) -> None:
    """Every other measurement of a model takes no time at all."""
    groups = case[0]
    whole, calls = groups.macs(groups.widths), []

    def measure(models: Any) -> list[float]:
        calls.append(len(models))
        lucky = len(models) > 1 and calls.count(2) % 2
        times = [10 * g.macs(g.widths) / whole for g in (find_groups(m, 64, groups.pick) for m in models)]
        return [times[0], 0.001] if lucky else times

    pruned, time = prune_to_latency(*case, Goal(latency_ms=7.5, align=1), measure)
    assert time == pytest.approx(10 * (1 - pruned.flops_removed)) and time <= 7.5


def test_optimizer_state_follows(case: Any) -> None:
    groups = case[0]
    groups.model.train()
    optimizer = paddle.optimizer.Momentum(0.01, parameters=groups.model.parameters())
    groups.model(paddle.rand([2, 3, 64, 64]))[0].mean().backward()
    optimizer.step()
    pruned = prune_to(*case, Goal(flops_removed=0.4)).model
    state = cut_optimizer_state(optimizer.state_dict(), groups.model, pruned.record[-1])
    entry = next(iter(pruned.record[-1]["kept"]))
    name = groups.model.tensor(entry).name
    moments = [v for k, v in state.items() if k.startswith(f"{name}_")]
    assert moments and all(tuple(m.shape) == tuple(pruned.tensor(entry).shape) for m in moments)
    optimizer.clear_grad()


def test_sparsity() -> None:
    weights = {"a": np.random.default_rng(0).standard_normal((8, 8, 3, 3)), "b": np.ones((6, 4))}
    masks = magnitude_masks(weights, 0.5)
    assert achieved({n: w * masks[n] for n, w in weights.items()}) == pytest.approx(0.5, abs=1e-3)
    kept = np.abs(weights["a"])[masks["a"]]
    assert masks["b"].all() and kept.min() >= np.abs(weights["a"])[~masks["a"]].max()
    two = two_of_four_masks(weights)
    assert set(two) == {"a"}  # 6 input channels of b are no multiple of 4
    assert (two["a"].reshape(8, 2, 4, 3, 3).sum(axis=2) == 2).all()
    schedule = GradualSchedule(0.8, 0.0, 100, updates=10)
    values = [schedule.at(step) for step in (0, 50, 100, 200)]
    assert values == pytest.approx([0.0, 0.7, 0.8, 0.8]) and schedule.due(100) and not schedule.due(101)
    with pytest.raises(UserError):
        magnitude_masks(weights, 1.0)


def test_sparse_weights_leave_depthwise_out(case: Any) -> None:
    names = sparse_weights(case[0].model)
    assert names and len(sparse_weights(case[0].model, only_1x1=True)) < len(names)


def test_sparse_weights_leave_out_what_is_kept(case: Any) -> None:
    model = case[0].model
    names = sparse_weights(model)
    without = sparse_weights(model, keep=("classifier",))
    assert set(without) == {name for name in names if not name.startswith("classifier.")} < set(names)
    with pytest.raises(UserError, match="matches no layer") as error:
        sparse_weights(model, keep=("clasifier",))
    assert "classifier" in error.value.remedy
    with pytest.raises(UserError, match="no regular expression"):
        sparse_weights(model, keep=("(",))
    assert not any(case[0].model.tensor(n).shape[1] == 1 for n in names)


def _old_file(path: Path, content: Any) -> Path:
    """A ``sen.pickle`` as PaddleSlim writes it: an object of a class of its own."""
    names = ["paddleslim", "paddleslim.dygraph", "paddleslim.dygraph.prune", "paddleslim.dygraph.prune.filter_pruner"]
    status = type("Status", (), {"__module__": names[-1]})
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[-1]].Status = status  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        item = status()
        item.is_ckp, item.sensitivies, item.accumulates = True, content, {}  # type: ignore[attr-defined]
        path.write_bytes(pickle.dumps(item))
    finally:
        for name in names:
            del sys.modules[name]
    return path


def test_an_old_pickle_is_read_without_running_it(case: Any, tmp_path: Path) -> None:
    groups = case[0]
    path = _old_file(tmp_path / "sen.pickle", {"conv2d_0.w_0": {(0,): {0.2: 0.01, 0.5: np.float64(0.2)}}})
    assert is_pickle(path) and read_sensitivities(path) == {"conv2d_0.w_0": {0.2: 0.01, 0.5: 0.2}}
    curves = read_curves(path, groups)
    first = next(iter(curves.groups.values()))
    assert first.losses == [0.01, 0.2] and first.kept == [26, 16]

    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    with pytest.raises(UserError, match="nan"):
        read_sensitivities(_old_file(tmp_path / "nan.pickle", {"conv2d_0.w_0": {0.2: float("nan")}}))
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"builtins\.print"):
        read_sensitivities(tmp_path / "evil.pickle")

"""What every model must pass, whatever it is made of: used by the tests over the matrix of models."""

from __future__ import annotations

import numpy as np
import paddle
from paddle.static import InputSpec

from paddleseg_slim.graph import GraphLayer, capture
from paddleseg_slim.graph.ir import flatten
from paddleseg_slim.graph.run import Plan
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.gates import insert_gates
from paddleseg_slim.prune.surgery import cut


def captured(layer: paddle.nn.Layer, size: int | None = None) -> GraphLayer:
    model = capture(layer, [InputSpec([None, 3, size, size], "float32", "x")], verify=False)
    random = np.random.default_rng(0)
    for name, tensor in model.tensors():  # statistics and scales away from their start, so that a mix-up shows
        if tensor.ndim == 1 and "float" in str(tensor.dtype):
            noise = random.uniform(-0.3, 0.3, tensor.shape).astype("float32")
            tensor.set_value(tensor.numpy() * (1 + np.abs(noise)) + (0 if name.endswith("_variance") else noise * 0.2))
    return model


def outputs(model: GraphLayer, x: np.ndarray) -> list[np.ndarray]:
    model.eval()
    with paddle.no_grad():
        return [t.numpy() for t in flatten(model(paddle.to_tensor(x))) if isinstance(t, paddle.Tensor)]


def run_gated(groups: ChannelGroups, alive: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    gated = insert_gates(groups)
    plan = Plan(gated.graph)
    tables = [(slot, {name: groups.model.tensor(name)}, name) for slot, name in plan.parameters]
    feeds = gated.feeds(alive)
    inputs = [paddle.to_tensor(x)] + [paddle.to_tensor(feeds[v.name]) for v in gated.graph.inputs[1:]]
    with paddle.no_grad():
        return [t.numpy() for t in plan.run(inputs, tables)]


def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Largest difference relative to the largest number of each output."""
    assert len(a) == len(b)
    return max(float(np.abs(p.astype("float64") - q).max() / max(np.abs(q).max(), 1e-6)) for p, q in zip(a, b))


def random_keep(groups: ChannelGroups, ratio: float, names: list[str] | None = None) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    chosen = groups.groups if names is None else [groups.by_name[n] for n in names]
    return {
        g.name: np.sort(random.choice(g.width, max(1, round(g.width * (1 - ratio))), replace=False)) for g in chosen
    }


def check_gated_equals_pruned(groups: ChannelGroups, size: int, one_by_one: bool = False) -> None:
    x = np.random.default_rng(2).standard_normal((1, 3, size, size)).astype("float32")
    sets = [[g.name] for g in groups.groups] if one_by_one else [None]
    for names in sets:
        kept = random_keep(groups, 0.4, names)
        gap = difference(run_gated(groups, groups.keep(kept), x), outputs(cut(groups, kept), x))
        assert gap < 1e-4, (names, gap)


__all__ = ["captured", "check_gated_equals_pruned", "difference", "find_groups", "outputs", "random_keep", "run_gated"]

"""Edits keep a graph valid, and keep its function where they should."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest
from graph_nets import SPEC, TINY, TinyDecoder, TinySeg, image, seeded
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim.graph import (
    InvalidGraph,
    OpRow,
    PaddleExecutor,
    capture,
    extend_op,
    extract,
    fix_size,
    flatten,
    fold_batch_norm,
    fold_constants,
    insert_node,
    refresh_shapes,
    register_op,
    remove_dead_nodes,
    remove_node,
    row,
    split,
)


def evaluate(graph: Any, x: Any) -> list[np.ndarray]:
    graph.eval()
    with paddle.no_grad():
        return [leaf.numpy() for leaf in flatten(graph(x)) if isinstance(leaf, paddle.Tensor)]


def gate(x: Any, factor: Any = None, power: float = 1.0) -> Any:
    return x * factor.reshape([1, -1, 1, 1]) ** power


if row("test.gate") is None:
    register_op(OpRow("test.gate", run=gate))


@pytest.fixture
def seg() -> Any:
    return capture(seeded(TinySeg), SPEC, verify=False)


def test_insert_a_node_of_our_own_on_an_edge_and_remove_it(seg: Any) -> None:
    before = evaluate(seg, image())
    state = {name: tensor.numpy() for name, tensor in seg.state_dict().items()}
    factors = np.array([1, 0, 1, 1, 0, 1, 1, 1], "float32")
    seg.add_tensor("gate", paddle.to_tensor(factors), persistable=False)
    seg.add_parameter_value("gate")
    for graph in seg.graphs:
        stem = graph.node("stem/relu").out
        users = [node for node in graph.users(stem) if node.op == "depthwise_conv2d"]
        inputs = {"factor": graph.parameters["gate"]}
        node = insert_node(graph, stem, "test.gate", "stem/gate", inputs=inputs, attrs={"power": 2.0}, users=users)
        graph.check()
        assert graph.users(node.out) == users and node.out.shape == stem.shape
    gated = evaluate(seg, image())
    assert not np.allclose(gated[0], before[0])
    seg.train()
    seg(image())["logits"].sum().backward()
    gradient = seg.tensor("block.0.conv.weight").grad.numpy()
    assert (gradient[factors == 0] == 0).all() and (gradient[factors == 1] != 0).any()
    for graph in seg.graphs:
        remove_node(graph, graph.node("stem/gate"), "x")
        remove_dead_nodes(graph)
        graph.check()
    seg.remove_tensor("gate")
    seg.set_state_dict(state)
    assert all(np.array_equal(a, b) for a, b in zip(evaluate(seg, image()), before))


def test_insert_at_an_output_and_at_an_input(seg: Any) -> None:
    graph = seg.eval_graph
    before = evaluate(seg, image())[0]
    options = {"scale": 2.0, "bias": 0.0, "bias_after_scale": True}
    insert_node(graph, graph.outputs["logits"], "scale", "double", attrs=options)
    insert_node(graph, graph.inputs[0], "scale", "double", attrs={**options, "scale": 1.0})
    graph.check()
    assert graph.has_node("double_1")
    assert np.array_equal(evaluate(seg, image())[0], before * 2)


def test_the_checker_finds_broken_graphs(seg: Any) -> None:
    graph = seg.eval_graph.clone()
    graph.nodes.reverse()
    with pytest.raises(InvalidGraph, match="nothing before it makes"):
        graph.check()
    graph = seg.eval_graph.clone()
    graph.nodes[3].name = graph.nodes[2].name
    with pytest.raises(InvalidGraph, match="two nodes"):
        graph.check()
    with pytest.raises(ValueError, match="inputs"):
        remove_node(seg.eval_graph, seg.eval_graph.node("concat"))


def test_op_table_rejects_a_second_rule() -> None:
    with pytest.raises(ValueError, match="twice"):
        register_op(OpRow("test.gate"))
    extend_op("test.other", channels="a rule")
    with pytest.raises(ValueError, match="already"):
        extend_op("test.other", channels="another")


def test_changed_shapes_are_inferred_again(seg: Any) -> None:
    """Take channels 0, 2 and 5 of the stem out by hand: a narrower model that still runs and trains."""
    keep = np.array([1, 3, 4, 6, 7])
    for name in ("stem.conv.weight", "stem.conv.bias", "block.0.conv.weight"):
        seg.set_tensor(name, seg.tensor(name).numpy()[keep])
    for part in ("stem.bn", "block.0.bn"):
        for leaf in ("weight", "bias", "_mean", "_variance"):
            seg.set_tensor(f"{part}.{leaf}", seg.tensor(f"{part}.{leaf}").numpy()[keep])
    for name in ("block.1.conv.weight", "aux.weight"):
        seg.set_tensor(name, seg.tensor(name).numpy()[:, keep])
    seg.set_tensor("head.weight", seg.tensor("head.weight").numpy()[:, np.r_[keep, 8:20]])
    for graph in seg.graphs:
        graph.node("block.0.conv").attrs["groups"] = 5
        refresh_shapes(graph)
        graph.check()
        assert graph.node("stem.conv").out.shape == (-1, 5, -1, -1)
        assert graph.node("concat").out.shape == (-1, 17, -1, -1)
    seg.train()
    seg(image())["logits"].mean().backward()
    assert seg.tensor("head.weight").grad.shape == [4, 17, 1, 1]


@pytest.mark.parametrize("name", TINY)
def test_parts_run_as_the_whole(name: str) -> None:
    graph = capture(seeded(TINY[name]), SPEC, verify=False)
    expected = evaluate(graph, image())
    arrays = {key: tensor.numpy() for key, tensor in graph.tensors()}
    executor = PaddleExecutor()
    heavy = [node for node in graph.eval_graph.nodes if node.op in ("conv2d", "matmul", "conv2d_transpose")]
    for node in (heavy[0], heavy[-1]):
        for changed in (node.out, *node.input_values()):
            prefix, suffix = split(graph.eval_graph, [changed])
            prefix.check(), suffix.check()
            cache = executor.prepare(prefix, arrays)({"x": image().numpy()})
            assert set(cache) == {value.name for value in suffix.inputs}
            results = executor.prepare(suffix, arrays)(cache)
            wanted = {v.name: array for v, array in zip(graph.eval_graph.output_values(), expected)}
            assert results
            for key, array in results.items():  # other memory may round otherwise in the last bit
                np.testing.assert_allclose(array, wanted[key], rtol=1e-5, atol=1e-6)
    fixed = fix_size(graph.eval_graph, [(2, 3, 64, 96)])
    fixed.check()
    assert all(-1 not in node.out.shape for node in fixed.nodes)
    assert not any(node.op.startswith("shape") for node in fixed.nodes)
    got = executor.prepare(fixed, arrays)({"x": image().numpy()})
    for a, b in zip(got.values(), expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_suffix_follows_a_changed_value(seg: Any) -> None:
    graph = seg.eval_graph
    value = graph.node("block.1/relu").out
    prefix, suffix = split(graph, [value])
    assert not any(node.name == "stem.conv" for node in suffix.nodes)
    arrays = {key: tensor.numpy() for key, tensor in seg.tensors()}
    cache = PaddleExecutor().prepare(prefix, arrays)({"x": image().numpy()})
    run = PaddleExecutor().prepare(suffix, arrays)
    same, other = run(cache), run({**cache, value.name: np.zeros_like(cache[value.name])})
    assert not np.array_equal(same["bilinear_interp_1"], other["bilinear_interp_1"])
    part = extract(graph, [value], [graph.node("gate.1").out])
    assert [node.name for node in part.nodes] == ["gate.0", "gate.1"]


class Folding(nn.Layer):
    """Every layer that takes a normalisation in, and a constant that can be computed once."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2DTranspose(4, 6, 3, groups=2, bias_attr=False)
        self.up_bn = nn.BatchNorm2D(6)
        self.depthwise = nn.Conv2D(6, 6, 3, groups=6)
        self.depthwise_bn = nn.BatchNorm2D(6)
        self.linear = nn.Linear(6, 5)
        self.linear_bn = nn.BatchNorm1D(5)
        self.plain = nn.Linear(5, 5, bias_attr=False)
        self.plain_bn = nn.BatchNorm1D(5)
        self.alone = nn.BatchNorm1D(5)

    def forward(self, x: Any) -> Any:
        x = self.depthwise_bn(self.depthwise(self.up_bn(self.up(x)))).mean([2, 3])
        x = self.plain_bn(self.plain(self.linear_bn(self.linear(x))))
        return self.alone(x + paddle.arange(5, dtype="float32").reshape([1, 5]) * 2)


def test_batch_norm_folds_into_what_is_before_it() -> None:
    net = seeded(Folding)
    for name, tensor in net.named_parameters():
        if name.endswith(("_mean", "weight", "bias")):
            tensor.set_value(tensor + 0.3 * paddle.randn(tensor.shape))
        if name.endswith("_variance"):
            tensor.set_value(paddle.rand(tensor.shape) + 0.5)
    graph = capture(net, [InputSpec([None, 4, None, None], "float32", "x")])
    x = paddle.randn([2, 4, 9, 8])
    before, twin = evaluate(graph, x), copy.deepcopy(graph)
    assert sorted(fold_batch_norm(twin)) == ["depthwise", "linear", "plain", "up"]
    assert [node.name for node in twin.eval_graph.nodes if node.op == "batch_norm"] == ["alone"]
    nodes = len(twin.eval_graph.nodes)
    assert fold_constants(twin) > 0 and len(twin.eval_graph.nodes) < nodes
    for part in twin.graphs:
        refresh_shapes(part)
        part.check()
    np.testing.assert_allclose(evaluate(twin, x)[0], before[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(evaluate(graph, x)[0], before[0])
    assert not twin.has_tensor("up_bn._mean") and twin.has_tensor("alone._mean")
    twin.train()
    twin(x).sum().backward()
    assert twin.tensor("up.bias").grad is not None


def test_a_product_that_is_read_twice_is_not_folded() -> None:
    class Twice(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2D(3, 3, 1), nn.BatchNorm2D(3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return self.bn(y) + y

    assert fold_batch_norm(capture(seeded(Twice), SPEC, verify=False)) == []


def test_other_sizes_and_many_sizes_in_turn() -> None:
    net = seeded(TinyDecoder)
    graph = capture(net, SPEC, verify=False)
    net.eval(), graph.eval()
    for size in [(32, 48), (64, 64), (32, 48), (16, 80)]:
        for batch in (1, 3):
            x = image(batch, *size)
            for a, b in zip(net(x), graph(x)):
                assert np.array_equal(a.numpy(), b.numpy())

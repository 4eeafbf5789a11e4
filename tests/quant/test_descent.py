"""Coordinate descent against trying all integers, and the listed inputs of products against Paddle's own layers."""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import pytest

from paddleseg_slim.graph import Graph, Node, Value
from paddleseg_slim.quant import descent
from paddleseg_slim.quant.blocks import find_blocks
from paddleseg_slim.quant.node import symmetric


def layer_node(op: str, shape: tuple[int, ...], **attrs: object) -> Node:
    """A layer that reads a parameter of this shape."""
    names = ("x", "y") if op == "matmul" else ("input", "filter")
    x, weight = Value("x", "float32", (-1, -1, -1, -1)), Value("w", "float32", shape)
    return Node("layer", op, dict(zip(names, (x, weight))), dict(attrs))


@pytest.mark.parametrize("seed", range(4))
def test_near_the_best_of_all_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, scale = rng.normal(size=(1, 1, 6)), np.full((1, 1, 1), 0.5)
    exact = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)))[:, None, :]
    given = exact + 0.1 * rng.normal(size=exact.shape)
    moments = descent.Moments.of(exact, given, centred=False)
    grid = symmetric(3)
    nearest = np.clip(np.rint(weight / scale), -3, 3) * scale
    chosen = descent.descend(weight, nearest, scale, moments, grid)
    errors = {
        levels: descent.output_error(weight, 0.5 * np.array(levels)[None, None], exact, given, moments)
        for levels in itertools.product(range(-3, 4), repeat=6)
        if np.abs(0.5 * np.array(levels) - weight).max() < 1.5
    }
    found, before = (descent.output_error(weight, item, exact, given, moments) for item in (chosen, nearest))
    assert found <= before and found <= 2.0 * min(errors.values())
    np.testing.assert_allclose(chosen / 0.5, np.rint(chosen / 0.5))


@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((8, 4, 3, 3), {"strides": [2, 2], "paddings": [1, 1], "dilations": [1, 1], "groups": 1}),
        ((8, 2, 3, 2), {"strides": [1, 2], "paddings": [1, 0, 2, 1], "dilations": [1, 1], "groups": 2}),
        ((4, 1, 3, 3), {"strides": [1, 1], "paddings": [2, 2], "dilations": [2, 2], "groups": 4}),
        ((8, 4, 3, 3), {"strides": [2, 2], "paddings": [0, 0], "padding_algorithm": "SAME", "groups": 1}),
        ((8, 4, 3, 3), {"strides": [1, 1], "paddings": [0, 0], "padding_algorithm": "VALID", "groups": 1}),
    ],
)
def test_samples_times_weight_are_the_outputs(shape: tuple[int, ...], attrs: dict) -> None:
    rng = np.random.default_rng(0)
    node = layer_node("conv2d", shape, **attrs)
    weight, x = rng.normal(size=shape).astype("float32"), rng.normal(size=(2, 4, 9, 8)).astype("float32")
    padding = attrs.get("padding_algorithm") or attrs["paddings"]
    if len(padding) == 4 and isinstance(padding, list):
        padding = [padding[0], padding[1], padding[2], padding[3]]
    expected = paddle.nn.functional.conv2d(
        paddle.to_tensor(x), paddle.to_tensor(weight), stride=attrs["strides"], padding=padding,
        dilation=attrs.get("dilations", 1), groups=attrs["groups"],
    ).numpy()  # fmt: skip
    assert descent.can_descend(node)
    (samples,) = descent.product_samples(node, [x], shape, 0)
    rows = descent.as_rows(node, weight)
    found = np.einsum("pgk,gok->pgo", samples, rows).reshape(len(samples), -1)
    assert len(found) == expected.shape[0] * expected.shape[2] * expected.shape[3]
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1).reshape(found.shape), atol=1e-5)
    np.testing.assert_array_equal(descent.from_rows(node, rows, shape), weight)


@pytest.mark.parametrize("turned", [False, True])
def test_a_linear_layer(turned: bool) -> None:
    rng = np.random.default_rng(0)
    node = layer_node("matmul", (5, 7), transpose_x=False, transpose_y=turned)
    weight, x = rng.normal(size=(5, 7)), rng.normal(size=(2, 3, 7 if turned else 5))
    (samples,) = descent.product_samples(node, [x], weight.shape, 0)
    rows = descent.as_rows(node, weight)
    found = np.sort((samples[:, 0] @ rows[0].T).reshape(-1))
    np.testing.assert_allclose(found, np.sort((x @ (weight.T if turned else weight)).reshape(-1)))
    np.testing.assert_array_equal(descent.from_rows(node, rows, weight.shape), weight)


def test_the_bias_takes_the_means() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 3, 4))
    exact = rng.normal(size=(1000, 2, 4)) + 3
    given = exact + 0.5
    moments = descent.Moments.of(exact, given, centred=True)
    chosen = np.rint(weight)
    shift = descent.bias_shift(weight, chosen, moments)
    outputs = [np.einsum("gok,pgk->pgo", w, x).reshape(1000, -1) for w, x in ((weight, exact), (chosen, given))]
    np.testing.assert_allclose(outputs[0].mean(0), (outputs[1] + shift).mean(0))


def test_blocks_end_where_branches_meet() -> None:
    """Two residual blocks of two layers each, then a layer."""
    graph = Graph([Value("x", "float32", (-1, 4, 8, 8))])
    value = graph.inputs[0]

    def add(name: str, op: str, *inputs: Value) -> Value:
        names = {"conv2d": ("input", "filter"), "relu": ("x",), "add": ("x", "y")}[op]
        node = Node(name, op, dict(zip(names, inputs)), {})
        node.outputs = {"out": Value(f"{name}.out", "float32", (-1, 4, 8, 8), node)}
        graph.nodes.append(node)
        return node.out

    def layer(name: str, source: Value) -> Value:
        graph.parameters[f"{name}.w"] = Value(f"{name}.w", "float32", (4, 4, 3, 3))
        return add(name, "conv2d", source, graph.parameters[f"{name}.w"])

    for number in (0, 1):
        inside = add(f"relu{number}", "relu", layer(f"a{number}", value))
        value = add(f"sum{number}", "add", layer(f"b{number}", inside), value)
    graph.outputs = [add("last", "relu", layer("c", value))]
    names = ["a0", "b0", "a1", "b1", "c"]
    blocks = find_blocks(graph, names, most=3)
    assert [block.layers for block in blocks] == [("a0", "b0"), ("a1", "b1", "c")]
    assert blocks[0].inputs == ("x",) and blocks[0].outputs == ("sum0.out",) == blocks[1].inputs
    assert [block.layers for block in find_blocks(graph, names, most=1)] == [(name,) for name in names]
    assert set(find_blocks(graph, names, most=1)[1].inputs) == {"relu0.out", "x"}

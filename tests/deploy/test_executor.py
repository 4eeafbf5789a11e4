from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim.deploy.executor import OnnxExecutor, engine_forward, executor
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Graph, GraphLayer, Node, PaddleExecutor, Value, capture, extract


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.left = nn.Conv2D(8, 4, 1)
        self.right = nn.Conv2D(8, 4, 3, stride=2, padding=1)

    def forward(self, x):
        y = self.stem(x)
        low = nn.functional.interpolate(self.right(y), size=x.shape[2:], mode="bilinear")
        return {"logits": [self.left(y) + low], "image": x, "none": None}


@pytest.fixture(scope="module")
def layer() -> GraphLayer:
    paddle.seed(0)
    net = Net()
    net.eval()
    graph = capture(net, [InputSpec([None, 3, None, None], "float32", "x")], verify=False)
    graph.eval()
    return graph


def tensors(layer: GraphLayer, graph: Graph) -> dict[str, np.ndarray]:
    return {name: layer.tensor(name).numpy() for name in graph.parameters}


def image(shape=(2, 3, 10, 14)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_forward_has_the_model_s_own_structure(layer: GraphLayer) -> None:
    forward = engine_forward(layer, OnnxExecutor(1))
    for shape in ((2, 3, 10, 14), (1, 3, 7, 9)):
        got, want = forward(image(shape)), layer(paddle.to_tensor(image(shape)))
        np.testing.assert_allclose(got["logits"][0], want["logits"][0].numpy(), atol=1e-5)
        np.testing.assert_array_equal(got["image"], image(shape))
        assert got["none"] is None


def test_slices_run_as_in_paddle(layer: GraphLayer) -> None:
    """From the image to the middle, and from the middle on, give what Paddle's executor gives."""
    graph = layer.eval_graph
    middle = graph.node("left").value("input")
    head = extract(graph, graph.inputs, [middle])
    tail = extract(graph, [middle], graph.output_values()[:1])
    feeds = {"x": image()}
    for part in (head, tail):
        results = [runner.prepare(part, tensors(layer, part))(feeds) for runner in (OnnxExecutor(1), PaddleExecutor())]
        assert results[0].keys() == results[1].keys()
        for name in results[0]:
            np.testing.assert_allclose(results[0][name], results[1][name], atol=1e-5)
        feeds = {**feeds, **results[1]}


def test_gates_are_extra_inputs(layer: GraphLayer) -> None:
    """Channels that a gate closes count as zeros of what the convolution reads."""
    graph = layer.eval_graph.clone()
    gate = Value("gate", "float32", (1, 8, 1, 1))
    graph.inputs.append(gate)
    conv = graph.node("left")
    source = conv.value("input")
    product = Node("gated", "multiply", {"x": source, "y": gate}, {})
    product.outputs = {"out": Value("gated", "float32", source.shape, product)}
    graph.nodes.insert(graph.nodes.index(conv), product)
    conv.replace_input(source, product.out)
    graph.touch()
    graph.check()
    part = extract(graph, [source, gate], [conv.out])
    runner = OnnxExecutor(1).prepare(part, tensors(layer, part))
    feeds = {source.name: image((1, 8, 5, 6)), "gate": np.ones((1, 8, 1, 1), np.float32)}
    feeds["gate"][:, 3:] = 0
    closed = {**feeds, source.name: feeds[source.name] * feeds["gate"], "gate": np.ones_like(feeds["gate"])}
    (got,), (want,) = runner(feeds).values(), runner(closed).values()
    np.testing.assert_allclose(got, want, atol=1e-6)
    weight = layer.tensor("left.weight").numpy()[:, :3, 0, 0]
    if part.nodes[-1].op == "conv2d":
        by_hand = np.einsum("oc,nchw->nohw", weight, feeds[source.name][:, :3])
        np.testing.assert_allclose(got, by_hand, atol=1e-5)


def test_weights_are_those_of_the_moment(layer: GraphLayer) -> None:
    before = engine_forward(layer, OnnxExecutor(1))(image())["logits"][0]
    bias = layer.tensor("left.bias")
    old = bias.numpy()
    bias.set_value(old + 1)
    after = engine_forward(layer, OnnxExecutor(1))(image())["logits"][0]
    bias.set_value(old)
    np.testing.assert_allclose(after, before + 1, atol=1e-5)


def test_executor_by_name() -> None:
    assert executor("paddle").name == "paddle" and executor("onnxruntime", 1).name == "onnxruntime"
    with pytest.raises(UserError, match="cannot run parts"):
        executor("openvino")

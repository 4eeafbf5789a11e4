"""A captured model is the model: outputs, gradients, statistics, structure, names."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from graph.parity import assert_same
from graph_nets import SPEC, TINY, TinyAttention, TinySeg, TwoInputs, image, seeded
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim.deploy.head import with_head
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture, export_inference, flatten, load, save
from paddleseg_slim.models.zoo import ZOO, build

VISION = {
    "resnet18": None,
    "shufflenet_v2_x0_25": None,
    "mobilenet_v1": None,
    "mobilenet_v2": None,
    "mobilenet_v3_small": None,
    "squeezenet1_0": None,
    "densenet121": None,
    "resnext50_32x4d": None,
    "vgg11": 224,
    "alexnet": 224,
    "googlenet": 224,
    "inception_v3": 299,
}


@pytest.mark.parametrize("name", TINY)
def test_tiny_nets_train_and_evaluate_the_same(name: str) -> None:
    net = seeded(TINY[name])
    graph = capture(net, SPEC)
    assert graph.origin == "dynamic"
    assert_same(net, graph, [image(2, 80, 112)], steps=3)
    assert list(graph.state_dict()) == list(net.state_dict())
    graph.train_graph.check(), graph.eval_graph.check()


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_25"])
def test_vision_models(name: str) -> None:
    net = seeded(lambda: getattr(paddle.vision.models, name)(num_classes=7))
    assert_same(net, capture(net, SPEC, verify=False), [image(2, 64, 96)])


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_all_vision_models(name: str) -> None:
    size = VISION[name]
    options = {"with_pool": True} if name == "squeezenet1_0" else {}
    net = seeded(lambda: getattr(paddle.vision.models, name)(num_classes=7, **options))
    spec = [InputSpec([None, 3, size, size], "float32", "x")]
    rate = 1e-5 if name.startswith("vgg") else 0.01  # without normalisation it blows up in two steps
    assert_same(net, capture(net, spec), [image(2, size or 64, size or 96)], steps=2 if size else 10, rate=rate)


def test_lenet_has_one_channel() -> None:
    net = seeded(paddle.vision.models.LeNet)
    graph = capture(net, [InputSpec([None, 1, 28, 28], "float32", "x")])
    assert_same(net, graph, [paddle.rand([3, 1, 28, 28])])


@pytest.mark.parametrize("name", ["fast_scnn", pytest.param("bisenetv2", marks=pytest.mark.slow)])
def test_zoo_model(name: str) -> None:
    net = seeded(lambda: build(name, 5))
    assert_same(net, capture(net, SPEC, verify=False), [image(2, 64, 96)], steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_all_zoo_models(name: str) -> None:
    net = seeded(lambda: build(name, 5))
    assert_same(net, capture(net, SPEC), [image(2, 128, 160)], steps=10)


def test_structure_and_names() -> None:
    graph = capture(seeded(TinySeg), SPEC, verify=False)
    graph.train()
    outputs = graph(image())
    assert set(outputs) == {"logits", "extra"}
    assert isinstance(outputs["extra"], tuple) and outputs["extra"][1] is None
    graph.eval()
    assert graph(image())["extra"] == ()
    train, evaluation = ({node.name: node.op for node in g.nodes} for g in graph.graphs)
    assert train["stem.conv"] == "conv2d" and train["block.0.bn"] == "batch_norm"
    assert train["block.1.conv/add"] == "add" and train["concat"] == "concat"
    assert train["aux"] == "conv2d" and "aux" not in evaluation
    assert all(train[name] == op for name, op in evaluation.items())
    again = capture(seeded(TinySeg), SPEC, verify=False)
    assert [node.name for node in again.train_graph.nodes] == list(train)


def test_several_inputs_and_wrong_number() -> None:
    net = seeded(TwoInputs)
    graph = capture(net, [InputSpec([None, 6], "float32", "a"), InputSpec([None, 3], "float32", "b")])
    assert_same(net, graph, [paddle.rand([4, 6]), paddle.rand([4, 3])])
    with pytest.raises(UserError, match="takes 2 inputs"):
        graph(paddle.rand([4, 6]))


def test_capture_leaves_the_layer_alone() -> None:
    net = seeded(TinySeg)
    net.eval()
    net.aux.train()
    state = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    paddle.seed(5)
    expected = paddle.rand([1]).item()
    paddle.seed(5)
    graph = capture(net, SPEC)
    assert paddle.rand([1]).item() == expected
    assert not net.training and net.aux.training and not graph.training
    assert all(np.array_equal(tensor.numpy(), state[name]) for name, tensor in net.state_dict().items())
    assert graph.tensor("stem.conv.weight") is net.stem.conv.weight


def test_a_sublayer_is_replaced_in_place() -> None:
    net = seeded(TinySeg)
    net.eval()
    before = net(image())["logits"].numpy()
    names = list(net.state_dict())
    net.block = capture(net.block, [InputSpec([None, 8, None, None], "float32", "x")])
    net.eval()
    assert np.array_equal(net(image())["logits"].numpy(), before)
    assert list(net.state_dict()) == names


def test_deepcopy_and_pickle() -> None:
    graph = capture(seeded(TinySeg), SPEC, verify=False)
    graph.eval()
    expected = graph(image())["logits"].numpy()
    twin = copy.deepcopy(graph)
    twin.set_tensor("head.bias", np.full(4, 9.0))
    assert np.array_equal(graph(image())["logits"].numpy(), expected)
    assert not np.array_equal(twin(image())["logits"].numpy(), expected)
    again = pickle.loads(pickle.dumps(graph.eval_graph))
    again.check()
    assert [repr(node) for node in again.nodes] == [repr(node) for node in graph.eval_graph.nodes]


class Branches(nn.Layer):
    """Decides by the shape of a feature, as many models assert or pad."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, 2, 1)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        assert y.shape[1] == 4 and y.shape[2] > 4
        if y.shape[3] % 2 != 0:
            y = F.pad(y, [0, 1, 0, 0])
        return y * 2 if y.shape[2] > 1000 else y


def test_a_decision_on_a_shape_becomes_a_guard() -> None:
    net = seeded(Branches)
    graph = capture(net, SPEC)
    assert graph.eval_graph.guards
    assert_same(net, graph, [image(2, 72, 64)])
    with pytest.raises(UserError, match="another path"):
        graph(image(2, 64, 70))


class DataDecision(nn.Layer):
    """Decides by data in a branch of its own, in a helper and by an early return; and by a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 1)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        if y.mean() > 0:
            y = y * 2
        else:
            y = self.conv(y[:, :3]) - 1
        if x.shape[2] % 32 != 0:
            y = F.pad(y, [0, 0, 0, 1])
        return self.clipped(y)

    def clipped(self, y: Any) -> Any:
        if y.max() > 4.0:
            return y * 0.25
        return y


def test_a_decision_on_data_becomes_a_selection(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    net = seeded(DataDecision)
    net.conv.bias.set_value(paddle.zeros([4]))
    graph = capture(net, SPEC)
    assert graph.origin == "to_static" and re.search(r"test_capture\.py:\d+", caplog.text)
    for sign in (1.0, -1.0, 9.0):
        assert_same(net, graph, [image(2, 64, 64) * sign], 2)
    with pytest.raises(UserError, match="another path"):
        graph(image(2, 70, 64))
    save(graph, tmp_path / "saved")
    export_inference(graph, tmp_path / "exported" / "model")
    export_inference(graph, tmp_path / "old" / "model", file_format="pdmodel")
    for path in (tmp_path / "saved", tmp_path / "exported", tmp_path / "old"):
        again = flatten(load(path)(image(2, 64, 64)))[0]
        np.testing.assert_allclose(again.numpy(), net(image(2, 64, 64)).numpy(), atol=1e-6)


class DataLoop(nn.Layer):
    def forward(self, x: Any) -> Any:
        while x.max() < 100:
            x = x * 2
        return x


class NormInBranch(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2D(3)

    def forward(self, x: Any) -> Any:
        if x.max() > 100:
            x = self.norm(x)
        return x


class OtherShape(nn.Layer):
    def forward(self, x: Any) -> Any:
        if x.max() > 100:
            x = x.mean([2, 3])
        return x


@pytest.mark.parametrize(
    ("model", "message"), [(DataLoop, "pd_op.while"), (NormInBranch, "'norm' .batch_norm."), (OtherShape, "rank")]
)
def test_what_no_graph_can_hold_is_refused_with_its_line(model: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"test_capture\.py:\d+.*{message}"):
        capture(model(), SPEC)
    assert_same(*(lambda net: (net, capture(net, SPEC)))(seeded(TinyAttention)), [image()], 1)  # and the next works


class LostInPlace(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 1)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        F.relu_(y)
        return y


def test_verification_finds_a_lost_in_place_call() -> None:
    with pytest.raises(UserError, match="differs from the layer"):
        capture(LostInPlace(), SPEC)


class BakedSize(nn.Layer):
    """Right only at the size it was traced at."""

    def forward(self, x: Any) -> Any:
        return x.reshape([-1, 3, int(x.shape[2]) * int(x.shape[3])])


def test_fixed_size_is_the_way_out(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="cannot be captured"):
        capture(BakedSize(), SPEC)
    graph = capture(BakedSize(), SPEC, fixed_size=(32, 48))
    assert graph.origin == "fixed" and "fixed size" in caplog.text
    assert graph(image(2, 32, 48)).shape == [2, 3, 32 * 48]


class Odd(nn.Layer):
    """Tied weights, a tensor kept as a plain attribute, a symbol left on the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.offset = paddle.to_tensor([1.0, 2.0, 3.0, 4.0])
        self.shared = self.first
        self.last = None

    def forward(self, x: Any) -> Any:
        self.last = self.first(x) + self.offset
        return self.shared(self.second(self.last))


def test_tied_weights_plain_tensors_and_left_symbols() -> None:
    net = seeded(Odd)
    graph = capture(net, [InputSpec([None, 4], "float32", "x")])
    assert net.last is None
    net(paddle.rand([1, 4]))  # now a real tensor stands there
    graph = capture(net, [InputSpec([None, 4], "float32", "x")])
    assert "last" not in graph.train_graph.parameters
    assert list(graph.state_dict()) == list(net.state_dict())
    assert "offset" in graph.eval_graph.parameters
    assert_same(net, graph, [paddle.rand([3, 4])])


def test_amp_runs_the_graph() -> None:
    net = seeded(TinySeg)
    graph = capture(net, SPEC, verify=False)
    net.eval(), graph.eval()
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        expected, got = net(image())["logits"], graph(image())["logits"]
    np.testing.assert_allclose(got.astype("float32").numpy(), expected.astype("float32").numpy(), atol=1e-2)


@pytest.mark.peer
def test_a_model_of_paddleseg() -> None:
    import peers

    models, backbones = peers.paddleseg(), peers.paddleseg("paddleseg.models.backbones")
    net = seeded(lambda: models.PPLiteSeg(5, backbones.STDC1()))
    assert_same(net, capture(net, SPEC, verify=False), [image(2, 128, 128)], steps=1)


class Counting(nn.Layer):
    """Keeps a counter and a moving average of its own, assigned, written into by item, and by `paddle.assign`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("counter", paddle.zeros([1], dtype="int64"))
        self.register_buffer("average", paddle.zeros([4]))
        self.register_buffer("extremes", paddle.zeros([2]))
        self.register_buffer("last", paddle.zeros([4]))

    def forward(self, x: Any) -> Any:
        y = self.linear(x) - self.average
        if self.training:
            self.counter = self.counter + 1
            self.average = self.average * 0.9 + y.detach().mean(0) * 0.1 / self.counter.astype("float32")
            self.extremes[0] = y.detach().max()
            paddle.assign(y.detach()[0], self.last)
        return y * self.counter.astype("float32")


def test_buffers_that_the_model_keeps_itself(tmp_path: Path) -> None:
    net = seeded(Counting)
    graph = capture(net, [InputSpec([None, 4], "float32", "x")])
    assert set(graph.train_graph.updates) == {"counter", "average", "extremes", "last"}
    assert not graph.eval_graph.updates and not net.counter.item()
    twin = copy.deepcopy(net)
    save(graph, tmp_path / "saved")
    for model in (graph, load(tmp_path / "saved"), capture(graph, [InputSpec([None, 4], "float32", "x")])):
        start = copy.deepcopy(twin)
        start.set_state_dict(model.state_dict())
        for item in (start, model):
            item.train()
        for step in range(3):
            x = paddle.rand([3, 4]) + step
            expected, got = start(x), model(x)
            np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-6)
            expected.sum().backward(), got.sum().backward()
        assert model.state_dict()["counter"].item() >= 3
        for a, b in zip(start.state_dict().values(), model.state_dict().values()):
            np.testing.assert_allclose(b.numpy(), a.numpy(), atol=1e-6)


class CountingAlways(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 1)
        self.register_buffer("runs", paddle.zeros([1]))
        self.register_buffer("mean", paddle.zeros([4]))

    def forward(self, x: Any) -> Any:
        self.runs = self.runs + 1
        y = self.conv(x)
        self.mean = y.detach().mean([0, 2, 3])
        return y / self.runs


def test_a_model_that_counts_in_eval_mode_too(tmp_path: Path) -> None:
    graph = capture(seeded(CountingAlways), SPEC)
    first = with_head(graph, lambda outputs: outputs, "none")(image())[0].numpy()
    export_inference(graph, tmp_path / "model")  # files hold the state of this moment
    graph.eval()
    np.testing.assert_array_equal(graph(image()).numpy(), first)
    np.testing.assert_allclose(graph(image()).numpy(), first / 2, rtol=1e-6)
    np.testing.assert_array_equal(load(tmp_path)(image())[0].numpy(), first)


class _LinearOfGpus(paddle.nn.Linear):
    """What `paddle.nn.Linear` is where Paddle was built for GPUs: one operation."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle._C_ops.linear_v2(x, self.weight, self.bias, False)


class _TransposedLinear(paddle.nn.Linear):
    """The same under ``FLAGS_use_accuracy_compatible_kernel``."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle._C_ops.linear_v2(x, self.weight.T.contiguous(), self.bias, True)


@pytest.mark.skipif(not hasattr(paddle._C_ops, "linear_v2"), reason="this Paddle has no linear_v2")
@pytest.mark.parametrize("kind", [_LinearOfGpus, _TransposedLinear])
def test_a_linear_layer_is_one_graph_on_every_machine(kind: type[paddle.nn.Linear], tmp_path: Path) -> None:
    kinds = (paddle.nn.Linear, kind)
    layers = {which: paddle.nn.Sequential(which(6, 8), paddle.nn.ReLU(), which(8, 3)) for which in kinds}
    layers[kind].set_state_dict(layers[paddle.nn.Linear].state_dict())
    spec = [InputSpec([None, 6], "float32", "x")]
    here, there = (capture(layer, spec) for layer in layers.values())
    x = paddle.randn([5, 6])
    np.testing.assert_allclose(here(x).numpy(), there(x).numpy(), rtol=1e-5, atol=1e-5)
    if kind is _LinearOfGpus:
        assert [(n.name, n.op) for n in there.eval_graph.nodes] == [(n.name, n.op) for n in here.eval_graph.nodes]
    assert [n.op for n in there.train_graph.nodes if n.op in ("matmul", "linear_v2")] == ["matmul"] * 2
    paddle.jit.save(layers[kind], str(tmp_path / "model"), input_spec=spec)
    np.testing.assert_allclose(load(tmp_path / "model")(x)[0].numpy(), there(x).numpy(), rtol=1e-5, atol=1e-5)

"""Every op that the writer knows, as a small layer: ONNX Runtime against the graph, at dynamic and fixed sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import paddle.nn.functional as F
import pytest
from onnx.reference import ReferenceEvaluator
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim.deploy.onnx import WRITERS, graph_to_onnx, output_name, write_onnx
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, capture, flatten, insert_node
from paddleseg_slim.quant.node import OP as FAKE_QUANT


class Of(nn.Layer):
    """A function, and the sub-layers it uses, as a layer."""

    def __init__(self, function, **layers: nn.Layer) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_sublayer(name, layer)

    def forward(self, x):
        return self.function(self, x)


def _conv_bn() -> nn.Layer:
    layer = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
    layer[1]._mean.set_value(np.linspace(-1, 1, 8, dtype=np.float32))
    layer[1]._variance.set_value(np.linspace(0.5, 2, 8, dtype=np.float32))
    return layer


def _tuple(outputs):
    return list(outputs)


CASES = {
    "conv_bn": _conv_bn,
    "conv_same_stride": lambda: nn.Conv2D(3, 4, 3, stride=2, padding="SAME"),
    "conv_grouped_dilated": lambda: nn.Conv2D(3, 6, 3, dilation=2, padding=[1, 2, 3, 4], groups=3),
    "conv_bn_scaled_twice": lambda: Of(
        lambda s, x: s.bn(s.conv(x)) * paddle.full([1, 4, 1, 1], 0.5), conv=nn.Conv2D(3, 4, 1), bn=nn.BatchNorm2D(4)
    ),
    "conv_transpose_bn": lambda: nn.Sequential(
        nn.Conv2DTranspose(3, 4, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2D(4)
    ),
    "conv_transpose_grouped": lambda: nn.Sequential(
        nn.Conv2D(3, 4, 1), nn.Conv2DTranspose(4, 6, 4, 2, 1, groups=2), nn.BatchNorm2D(6)
    ),
    "batch_norm_alone": lambda: nn.BatchNorm2D(3),
    "max_pool_ceil": lambda: nn.MaxPool2D(3, 2, padding=1, ceil_mode=True),
    "avg_pool": lambda: nn.AvgPool2D(3, 2, padding=1, exclusive=False),
    "avg_pool_exclusive": lambda: nn.AvgPool2D(3, 2, padding=1),
    "adaptive_pools": lambda: Of(lambda s, x: [F.adaptive_avg_pool2d(x, n) for n in (1, 2, 3, (5, 4))]),
    "adaptive_max_pools": lambda: Of(lambda s, x: [F.adaptive_max_pool2d(x, n) for n in (1, 2, 3, (5, 4))]),
    "unfold": lambda: Of(lambda s, x: [F.unfold(x, 3, 2, 1), F.unfold(x, [2, 3], 1, [1, 0, 2, 1], [2, 1])]),
    "pixel_unshuffle": lambda: Of(lambda s, x: F.pixel_unshuffle(F.interpolate(x, [24, 36]), 3)),
    "global_max": lambda: nn.AdaptiveMaxPool2D(1),
    "bilinear_corners": lambda: Of(lambda s, x: F.interpolate(x, size=[17, 23], mode="bilinear", align_corners=True)),
    "bilinear_scale": lambda: Of(lambda s, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "bilinear_align_mode": lambda: Of(lambda s, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_mode=1)),
    "nearest": lambda: Of(lambda s, x: F.interpolate(x, scale_factor=2, mode="nearest")),
    "bicubic": lambda: Of(lambda s, x: F.interpolate(x, size=[40, 36], mode="bicubic")),
    "resize_to_other": lambda: Of(
        lambda s, x: F.interpolate(F.adaptive_avg_pool2d(x, 1), size=x.shape[2:], mode="bilinear") + x
    ),
    "resize_to_input": lambda: Of(
        lambda s, x: F.interpolate(F.max_pool2d(x, 2), size=paddle.shape(x)[2:], mode="bilinear")
    ),
    "layer_norm": lambda: Of(
        lambda s, x: s.norm(x.flatten(2).transpose([0, 2, 1])), norm=nn.LayerNorm(3, epsilon=1e-6)
    ),
    "group_norm": lambda: nn.Sequential(nn.Conv2D(3, 8, 1), nn.GroupNorm(4, 8)),
    "instance_norm": lambda: nn.InstanceNorm2D(3),
    "softmaxes": lambda: Of(lambda s, x: [F.softmax(x, 1), F.log_softmax(x, -1)]),
    "norms": lambda: Of(lambda s, x: [paddle.norm(x, p=2, axis=1, keepdim=True), F.normalize(x, axis=1)]),
    "activations": lambda: Of(
        lambda s, x: [f(x) for f in (F.relu, F.relu6, F.sigmoid, F.tanh, F.hardswish, F.hardsigmoid, F.gelu, F.silu,
                                     F.swish, F.mish, F.elu, F.selu, F.celu, F.leaky_relu, F.softplus, F.softsign,
                                     F.hardtanh, F.log_sigmoid)]
    ),
    "gelu_tanh": lambda: nn.GELU(approximate=True),
    "prelu": lambda: nn.PReLU(3),
    "arithmetic": lambda: Of(
        lambda s, x: [x + 1, 2 * x, x - x.mean(), x / (x.abs() + 1), x**2, paddle.sqrt(x.abs()), paddle.square(x),
                      paddle.rsqrt(x.abs() + 1), paddle.maximum(x, -x), paddle.minimum(x, x * 2), paddle.clip(x, -1, 1),
                      paddle.exp(x), paddle.floor(x), paddle.ceil(x), paddle.round(x), paddle.log(x.abs() + 1)]
    ),
    "logic": lambda: Of(
        lambda s, x: [paddle.where(x > 0, x, -x), (x >= 0).astype("float32"), paddle.logical_not(x < 0).astype("int32"),
                      ((x != 0) & (x <= 1)).astype("int64")]
    ),
    "reductions": lambda: Of(
        lambda s, x: [x.mean(), x.sum([2, 3]), x.max(1, keepdim=True), x.min(-1), x.mean([2, 3], keepdim=True),
                      paddle.logsumexp(x, 1), paddle.prod(x.clip(0.5, 1.5), 1)]
    ),
    "arg_and_top": lambda: Of(
        lambda s, x: [x.argmax(1), x.argmin(1, keepdim=True), x.argmax(), *paddle.topk(x, 2, axis=1), x.cumsum(1)]
    ),
    "shuffle": lambda: Of(
        lambda s, x: paddle.flatten(paddle.stack(paddle.split(s.conv(x), 2, axis=1), axis=2), 1, 2),
        conv=nn.Conv2D(3, 8, 1),
    ),
    "channel_and_pixel_shuffle": lambda: Of(
        lambda s, x: [F.pixel_shuffle(s.conv(x), 2), F.channel_shuffle(s.conv(x), 4)], conv=nn.Conv2D(3, 8, 1)
    ),
    "split_uneven": lambda: Of(lambda s, x: _tuple(paddle.split(s.conv(x), [2, 1, 5], 1)), conv=nn.Conv2D(3, 8, 1)),
    "slices": lambda: Of(
        lambda s, x: [x[:, 0], x[:, 1:], x[..., ::2], x[:, :, 1:-1, 2:], paddle.flip(x, [3]), x.unbind(1)[2]]
    ),
    "shapes": lambda: Of(
        lambda s, x: [x.reshape([x.shape[0], 3, -1]), x.flatten(1), x.unsqueeze(1).squeeze(1),
                      x.transpose([0, 3, 1, 2]),
                      paddle.tile(x, [1, 2, 1, 1]), x.mean([2, 3], keepdim=True).expand([-1, 3, 4, 5]),
                      x.mean(1, keepdim=True).expand_as(x), paddle.roll(x, [1, -2], [2, 3])]
    ),
    "sizes": lambda: Of(lambda s, x: [x * (x.shape[2] * x.shape[3]) ** -0.5, x.reshape([0, 0, x.shape[2] // 2, -1])]),
    "constants": lambda: Of(
        lambda s, x: [x + paddle.ones([1, 3, 1, 1]), paddle.zeros_like(x) + 2,
                      x * paddle.arange(3, dtype="float32").reshape([1, 3, 1, 1]),
                      paddle.full([x.shape[0], 1], 3.0) + x.mean([2, 3])]
    ),
    "grid": lambda: Of(
        lambda s, x: [paddle.stack(paddle.meshgrid(paddle.arange(x.shape[2]), paddle.arange(x.shape[3])))]
    ),
    "pads": lambda: Of(
        lambda s, x: [F.pad(x, [1, 2, 3, 0]), F.pad(x, [1, 1, 2, 2], mode="reflect"),
                      F.pad(x, [1, 1, 2, 2], mode="replicate"), F.pad(x, [0, 0, 0, 1, 2, 0, 0, 0], value=3.0)]
    ),
    "grid_sample": lambda: Of(
        lambda s, x: F.grid_sample(x, paddle.tanh(x[:, :2].transpose([0, 2, 3, 1])), padding_mode="border")
    ),
    "matrix": lambda: Of(
        lambda s, x: [paddle.matmul(x, x, transpose_y=True), s.linear(x.mean([2, 3])),
                      paddle.bmm(x[:, 0], x[:, 1].transpose([0, 2, 1])),
                      paddle.einsum("nchw,ncij->nhwij", x[:, :, :2, :2], x[:, :, :2, :2])],
        linear=nn.Linear(3, 7),
    ),
    "lookups": lambda: Of(
        lambda s, x: [paddle.gather(x, paddle.to_tensor([2, 0]), axis=1),
                      paddle.index_select(x, paddle.to_tensor([1]), 1),
                      paddle.take_along_axis(x, x.argmax(1, keepdim=True), 1), F.one_hot(x.argmax(1), 3),
                      s.table(x.argmax(1))],
        table=nn.Embedding(3, 4),
    ),
    "dropout_and_identity": lambda: Of(lambda s, x: [F.dropout(x, 0.5, training=s.training), x, x], d=nn.Dropout(0.5)),
}  # fmt: skip


def captured(layer: nn.Layer, shape=(None, 3, None, None)) -> GraphLayer:
    layer.eval()
    graph = capture(layer, [InputSpec(list(shape), "float32", "image")], verify=False)
    graph.eval()
    return graph


def run_onnx(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"]).run(None, feeds)


def to_onnx(layer: GraphLayer, **options) -> onnx.ModelProto:
    graph = layer.eval_graph
    return graph_to_onnx(graph, {name: layer.tensor(name).numpy() for name in graph.parameters}, **options)


def assert_same(layer: GraphLayer, model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(len(shape) + shape[2]).standard_normal(shape).astype(np.float32)
    with paddle.no_grad():
        expected = [tensor.numpy() for tensor in flatten(layer(paddle.to_tensor(image)))]
    by_name = dict(zip([item.name for item in model.graph.output], run_onnx(model, image=image)))
    assert len(expected) == len(layer.eval_graph.output_values())
    for value, want in zip(layer.eval_graph.output_values(), expected):
        got = by_name[output_name(value)]
        assert got.shape == want.shape and got.dtype == want.dtype
        spread = max(float(np.ptp(want)), 1.0) if want.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * spread)


@pytest.mark.parametrize("name", CASES)
def test_op_equals_the_graph(name: str) -> None:
    paddle.seed(3)
    layer = captured(CASES[name]())
    model = to_onnx(layer)
    assert_same(layer, model, (2, 3, 12, 16))
    assert_same(layer, model, (1, 3, 15, 11) if name not in ("sizes",) else (1, 3, 10, 14))
    fixed = to_onnx(layer, shapes=[(2, 3, 12, 16)])
    assert all(side.dim_value > 0 for out in fixed.graph.output for side in out.type.tensor_type.shape.dim)
    assert_same(layer, fixed, (2, 3, 12, 16))


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", ["layer_norm", "reductions", "resize_to_other", "split_uneven", "activations", "pads"])
def test_other_opsets(name: str, opset: int) -> None:
    layer = captured(CASES[name]())
    model = to_onnx(layer, opset=opset)
    assert [item.version for item in model.opset_import] == [opset]
    assert_same(layer, model, (2, 3, 12, 16))


def test_unsupported_opset_is_refused() -> None:
    with pytest.raises(UserError, match="opset is 11"):
        to_onnx(captured(nn.ReLU()), opset=11)


def test_op_without_a_function_is_named() -> None:
    layer = captured(Of(lambda s, x: paddle.cumprod(x, 1)))
    assert "cumprod" not in WRITERS
    with pytest.raises(UserError, match=r"lacks the op 'cumprod' \(node 'cumprod'\)"):
        to_onnx(layer)


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(masked: bool) -> None:
    """Against ONNX's own reference: engines lack it, or have it for some devices only."""

    class Net(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.mask = nn.Conv2D(3, 18, 3, padding=1), nn.Conv2D(3, 9, 3, padding=1)
            self.conv = paddle.vision.ops.DeformConv2D(3, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(x, self.offset(x), F.sigmoid(self.mask(x)) if masked else None)

    paddle.seed(5)
    layer = captured(Net())
    with pytest.raises(UserError, match="opset 19"):
        to_onnx(layer)
    model = to_onnx(layer, opset=19, shapes=[(1, 3, 7, 6)])
    image = np.random.default_rng(0).standard_normal((1, 3, 7, 6)).astype(np.float32)
    (got,) = ReferenceEvaluator(model).run(None, {"image": image})
    np.testing.assert_allclose(got, layer(paddle.to_tensor(image)).numpy(), atol=2e-5)


def test_sizes_are_read_once_and_folded_where_they_are_known() -> None:
    """Tokens back to a map, as transformers do: one Shape for height and width, none where only the batch is open."""
    layer = captured(
        Of(
            lambda s, x: s.conv(F.relu(x.flatten(2)).reshape([x.shape[0], 3, x.shape[2], x.shape[3]])),
            conv=nn.Conv2D(3, 4, 1),
        )
    )
    free = to_onnx(layer)
    kinds = [node.op_type for node in free.graph.node]
    assert kinds.count("Shape") <= 2 and not {"Gather", "Squeeze", "Slice"} & set(kinds)
    assert_same(layer, free, (2, 3, 12, 16))
    batch = to_onnx(layer, shapes=[(-1, 3, 12, 16)])
    assert not {"Shape", "Gather", "Slice"} & {node.op_type for node in batch.graph.node}
    assert_same(layer, batch, (3, 3, 12, 16))


def test_open_axes_of_several_inputs_are_not_said_to_be_equal() -> None:
    class Add(nn.Layer):
        def forward(self, x, y):
            return x + F.adaptive_avg_pool2d(y, 1)

    layer = capture(Add(), [InputSpec([None, 3, None, None], "float32", name) for name in ("x", "y")], verify=False)
    x, y = (
        [side.dim_param or side.dim_value for side in i.type.tensor_type.shape.dim] for i in to_onnx(layer).graph.input
    )
    assert (x, y) == (["batch", 3, "x.height", "x.width"], ["batch", 3, "y.height", "y.width"])


def test_a_multiple_of_the_size_is_a_factor() -> None:
    """ONNX Runtime's fast kernels take factors, not sizes."""
    grown = {"size": [24, 48], "mode": "bilinear"}
    layer = captured(Of(lambda s, x: F.interpolate(F.interpolate(x, **grown), size=[36, 50], mode="bilinear")))
    model = to_onnx(layer, shapes=[(-1, 3, 12, 16)])
    first, second = (node for node in model.graph.node if node.op_type == "Resize")
    scales = {item.name: item for item in model.graph.initializer}[first.input[2]]
    assert onnx.numpy_helper.to_array(scales).tolist() == [1, 1, 2, 3] and len(first.input) == 3
    assert len(second.input) == 4  # 36 is not a multiple of 24
    assert_same(layer, model, (2, 3, 12, 16))


def _depthwise(read_by: nn.Layer, channels: int = 10) -> nn.Layer:
    layer = nn.Sequential(
        nn.Conv2D(3, channels, 1),
        nn.Conv2D(channels, channels, 3, stride=2, padding=1, groups=channels),
        nn.BatchNorm2D(channels),
        nn.Hardswish(),
        read_by,
    )
    layer[2]._mean.set_value(np.linspace(-1, 1, channels, dtype=np.float32))
    return layer


@pytest.mark.parametrize(
    "read_by, channels, written",
    [
        (lambda: nn.Conv2D(10, 4, 1), 10, 12),
        (lambda: nn.Sequential(nn.Conv2D(10, 4, 3, bias_attr=False), nn.BatchNorm2D(4)), 10, 12),
        (lambda: nn.Conv2D(12, 4, 1), 12, 12),  # a multiple of four as it is
        (lambda: nn.Conv2D(6, 4, 1), 6, 6),  # few
        (lambda: nn.Conv2D(10, 4, 1, groups=2), 10, 10),  # its groups would be others
        (lambda: nn.AdaptiveAvgPool2D(1), 10, 10),  # the model's output
    ],
)
def test_depthwise_convolutions_are_of_a_multiple_of_four_channels(read_by, channels, written) -> None:
    """ONNX Runtime computes others several times more slowly; what is added has no effect."""
    layer = captured(_depthwise(read_by(), channels))
    model = to_onnx(layer)
    filters = {item.name: tuple(item.dims) for item in model.graph.initializer}
    (depthwise,) = (node for node in model.graph.node if node.op_type == "Conv" and filters[node.input[1]][1] == 1)
    assert filters[depthwise.input[1]][0] == written
    assert [node.op_type for node in model.graph.node].count("Pad") == (written != channels)
    assert_same(layer, model, (2, 3, 12, 16))


def test_batch_norm_and_bias_are_folded() -> None:
    model = to_onnx(captured(_conv_bn()))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    assert model.graph.node[0].name == "0"
    assert len(model.graph.initializer) == 2  # the folded filter and bias, nothing else


def test_file_metadata_and_output_op(tmp_path: Path) -> None:
    layer = captured(nn.Conv2D(3, 4, 1))
    image = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    logits = layer(paddle.to_tensor(image)).numpy()
    for output_op, expected in (("argmax", logits.argmax(1)), ("none", logits)):
        path = tmp_path / f"{output_op}.onnx"
        write_onnx(layer, path, output_op=output_op, metadata={"class_names": ["a", "b"], "task": "segmentation"})
        model = onnx.load(str(path))
        assert {item.key: item.value for item in model.metadata_props} == {
            "class_names": '["a", "b"]',
            "task": "segmentation",
        }
        (output,) = run_onnx(model, image=image)
        assert output.dtype == (np.int32 if output_op == "argmax" else np.float32)
        np.testing.assert_allclose(output, expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["argmax.onnx", "none.onnx"]


def test_wrong_input_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes"):
        write_onnx(captured(nn.Conv2D(3, 4, 1)), tmp_path / "m.onnx", input_shape=(1, 4, 8, 8))
    assert not any(tmp_path.iterdir())


def _quantized(
    bits_range: tuple[int, int], zero: float | None, weight_axis: int | None = 0, net: nn.Layer | None = None
) -> GraphLayer:
    """A convolution with a quantizer at its input and its weight, scales as an observer would set them."""
    layer = captured(net or nn.Conv2D(3, 8, 3, padding=1))
    graph = layer.eval_graph
    conv = next(node for node in graph.nodes if node.op == "conv2d")
    weight = layer.tensor(conv.value("filter").name).numpy()
    scales = np.abs(weight).max(axis=(1, 2, 3)) / 127
    stored = {"in_scale": np.float32(0.02), "w_scale": scales if weight_axis == 0 else np.float32(scales.max())}
    if zero is not None:
        stored["in_zero"] = np.float32(zero)
    for name, array in stored.items():
        layer.add_tensor(name, paddle.to_tensor(array))
        layer.add_parameter_value(name)
    grid = {"bits": 8, "axis": None, "qmin": bits_range[0], "qmax": bits_range[1]}
    inputs = {"scale": graph.parameters["in_scale"], "zero_point": graph.parameters.get("in_zero")}
    readers = list(graph.users(conv.value("input")))
    insert_node(graph, conv.value("input"), FAKE_QUANT, "in_quant", inputs=inputs, attrs=grid, users=readers)
    weights = {"bits": 8, "axis": weight_axis, "qmin": -127, "qmax": 127}
    insert_node(
        graph,
        conv.value("filter"),
        FAKE_QUANT,
        "w_quant",
        inputs={"scale": graph.parameters["w_scale"]},
        attrs=weights,
        users=[conv],
    )
    graph.check()
    return layer


@pytest.mark.parametrize(
    ("bits_range", "zero", "axis", "kind"),
    [
        ((0, 255), 128.0, 0, onnx.TensorProto.UINT8),
        ((-128, 127), None, 0, onnx.TensorProto.INT8),
        ((0, 127), 3.0, None, onnx.TensorProto.UINT8),
    ],
)
@pytest.mark.parametrize("int32_bias", [False, True])
def test_quantizers_become_quantize_and_dequantize(bits_range, zero, axis, kind, int32_bias) -> None:
    layer = _quantized(bits_range, zero, axis)
    model = to_onnx(layer, int32_bias=int32_bias)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == (3 if int32_bias else 2)
    arrays = {item.name: item for item in model.graph.initializer}
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert arrays[quantize.input[2]].data_type == kind
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    by_output = {name: node for node in model.graph.node for name in node.output}
    assert arrays[by_output[conv.input[1]].input[0]].data_type == onnx.TensorProto.INT8
    image = 3 * np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)
    expected = layer(paddle.to_tensor(image)).numpy()
    np.testing.assert_allclose(_unoptimised(model, image), expected, atol=2e-4 if int32_bias else 2e-5)


def _unoptimised(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def test_integers_around_their_middle_are_signed_ones_around_zero() -> None:
    """The numbers do not change, so neither does a bit of the output."""
    layer = _quantized((0, 255), 128.0, 0)
    files = [to_onnx(layer, signed_middle=signed) for signed in (False, True)]
    kinds = []
    for model in files:
        arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
        zero = arrays[next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input[2]]
        kinds.append((zero.dtype.name, int(zero)))
    assert kinds == [("uint8", 128), ("int8", 0)]
    image = 3 * np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)
    np.testing.assert_array_equal(*(_unoptimised(model, image) for model in files))


def test_sizes_are_read_of_integers() -> None:
    """A Shape behind a DequantizeLinear makes OpenVINO dequantize a whole tensor for its sizes."""

    halved = Of(
        lambda s, x: F.interpolate(s.conv(x), paddle.shape(x)[2:], mode="bilinear"),
        conv=nn.Conv2D(3, 8, 3, stride=2, padding=1),
    )
    read = []
    for integer_sizes in (False, True):
        model = to_onnx(_quantized((-128, 127), None, net=halved), integer_sizes=integer_sizes)
        makers = {name: node.op_type for node in model.graph.node for name in node.output}
        read.append({makers[node.input[0]] for node in model.graph.node if node.op_type == "Shape"} - {"Conv"})
    assert read == [{"DequantizeLinear"}, {"QuantizeLinear"}]


def test_range_without_an_integer_type_is_refused() -> None:
    with pytest.raises(UserError, match=r"in_quant.*\[0, 1023\]"):
        to_onnx(_quantized((0, 1023), None))

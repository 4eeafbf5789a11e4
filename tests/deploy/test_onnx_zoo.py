"""All models: the ONNX file against the graph at two sizes, and against the file that paddle2onnx writes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import paddle
import paddle.vision.models as vision
import pytest
from paddle.static import InputSpec

from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.deploy.runtimes import RuntimeOptions, load
from paddleseg_slim.graph import GraphLayer, capture, export_inference, flatten
from paddleseg_slim.models.zoo import ZOO, build

SEGMENTATION = {name: ([None, 3, None, None], [(1, 3, 64, 96), (2, 3, 128, 160)]) for name in ZOO}
ANY_SIZE = "resnet18 resnext50_32x4d mobilenet_v1 mobilenet_v2 mobilenet_v3_small shufflenet_v2_x0_5 squeezenet1_1 "
ANY_SIZE += "densenet121 inception_v3"
CLASSIFICATION = {name: ([None, 3, None, None], [(1, 3, 96, 128), (2, 3, 224, 224)]) for name in ANY_SIZE.split()}
FIXED = {
    name: ([None, 3, 224, 224], [(1, 3, 224, 224), (2, 3, 224, 224)]) for name in ("googlenet", "vgg11", "alexnet")
}
FIXED["LeNet"] = ([None, 1, 28, 28], [(1, 1, 28, 28), (3, 1, 28, 28)])
MODELS = {**SEGMENTATION, **CLASSIFICATION, **FIXED}

FAST = (
    "fast_scnn",
    "pp_humanseg_lite",
    "bisenetv2",
    "segformer_b0",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "LeNet",
)
HUGE = ("fcn_hrnet_w48", "deeplabv3p_resnet101", "vgg11", "alexnet")  # nothing in them that a smaller one lacks


def made(name: str) -> GraphLayer:
    paddle.seed(1)
    generator = np.random.default_rng(1)
    model = build(name, 5) if name in ZOO else getattr(vision, name)()
    model.eval()
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):  # statistics of random weights would hide a wrong fold
            size = layer._mean.shape
            layer._mean.set_value(generator.normal(0, 0.1, size).astype(np.float32))
            layer._variance.set_value(generator.uniform(0.5, 1.5, size).astype(np.float32))
    graph = capture(model, [InputSpec(MODELS[name][0], "float32", "x")], verify=False)
    graph.eval()
    return graph


def compare(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """At most 1e-4 of the output range, and the same class at 99.99 % of the places."""
    assert [array.shape for array in got] == [array.shape for array in want]
    for one, other in zip(got, want):
        assert np.abs(one - other).max() <= 1e-4 * np.ptp(other)
        assert (one.argmax(1) == other.argmax(1)).mean() >= 0.9999


def check(name: str, folder: Path) -> None:
    layer = made(name)
    path = folder / f"{name}.onnx"
    write_onnx(layer, path)
    runtime = load(path, "onnxruntime", RuntimeOptions(threads=1))
    for shape in MODELS[name][1]:
        image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        with paddle.no_grad():
            want = [tensor.numpy() for tensor in flatten(layer(paddle.to_tensor(image)))]
        compare(runtime(image), want)


@pytest.mark.parametrize("name", FAST)
def test_equals_the_graph(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in FAST + HUGE])
def test_equals_the_graph_slow(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.parametrize("name", ["fast_scnn", "segformer_b0"])
def test_fixed_size_and_openvino(name: str, tmp_path: Path) -> None:
    layer = made(name)
    shape = (1, 3, 64, 96)
    write_onnx(layer, tmp_path / "fixed.onnx", input_shape=shape)
    write_onnx(layer, tmp_path / "free.onnx")
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "fixed.onnx")).graph.node]
    assert not {"Shape", "Range", "Gather"} & set(kinds) or name == "segformer_b0"
    assert "Shape" not in kinds
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    want = [tensor.numpy() for tensor in flatten(layer(paddle.to_tensor(image)))]
    for file, engine in (("fixed", "onnxruntime"), ("free", "openvino"), ("fixed", "openvino")):
        compare(load(tmp_path / f"{file}.onnx", engine, RuntimeOptions(threads=1))(image), want)


CONVERT = "import sys, paddle2onnx; paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=17)"


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_equals_paddle2onnx(name: str, tmp_path: Path) -> None:
    """In a subprocess: paddle2onnx can abort the process."""
    if importlib.util.find_spec("paddle2onnx") is None:
        pytest.skip("paddle2onnx is not installed")
    layer = made(name)
    # adaptive pooling in paddle2onnx needs a fixed size, and here one that six bins divide
    shape = (1, 3, 192, 192) if name == "fast_scnn" else MODELS[name][1][0]
    files = export_inference(layer, tmp_path / "model", input_shapes=[shape])
    command = [sys.executable, "-c", CONVERT, *map(str, files[:2]), str(tmp_path / "peer.onnx")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode or not (tmp_path / "peer.onnx").exists():
        pytest.skip(f"paddle2onnx fails on {name}")
    write_onnx(layer, tmp_path / "ours.onnx")
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours, peers = (load(tmp_path / f"{kind}.onnx", "onnxruntime")(image) for kind in ("ours", "peer"))
    compare(ours, peers)

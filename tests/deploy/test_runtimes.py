from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from onnx_files import conv_net

from paddleseg_slim.cli import quant_result
from paddleseg_slim.deploy import runtimes
from paddleseg_slim.deploy.benchmark import Candidate
from paddleseg_slim.deploy.benchmark.measure import options_for
from paddleseg_slim.deploy.runtimes import NodePrecision, RuntimeOptions, TensorSpec, find_model, load
from paddleseg_slim.deploy.runtimes.machine import cpu_flags, describe_machine, peak_memory_mb
from paddleseg_slim.deploy.runtimes.paddle_inference import PaddleRuntime
from paddleseg_slim.deploy.runtimes.tensorrt_runtime import builder_flags, cache_key, layer_precision, profile_shapes
from paddleseg_slim.errors import UserError

ENGINES = ["onnxruntime", "openvino"]
ONE = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return {
        "float": conv_net(folder / "float.onnx", width=16, layers=3),
        "int8": conv_net(folder / "int8.onnx", width=16, layers=3, quantized=True),
    }


def image(height: int = 24, width: int = 40, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, height, width)).astype(np.float32)


@pytest.fixture(scope="module")
def reference(files) -> np.ndarray:
    """The float model by ONNX's own, slow reference implementation."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(files["float"])).run(None, {"x": image()})[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_with_the_reference(files, reference, engine: str) -> None:
    runtime = load(files["float"], engine, ONE)
    assert [(spec.name, spec.dtype, spec.shape) for spec in runtime.inputs] == [("x", "float32", (-1, 3, -1, -1))]
    (output,) = runtime.run({"x": image()})
    np.testing.assert_allclose(output, reference, atol=1e-4)
    (batch,) = runtime(image(16, 8, batch=3))
    assert batch.shape == (3, 16, 16, 8)


@pytest.mark.parametrize("engine", ENGINES)
def test_describe_counts_convolutions_by_precision(files, engine: str) -> None:
    plain = load(files["float"], engine, ONE).describe()
    assert plain.conv_precisions == {"fp32": 3} and plain.quantized_convs == 0 and plain.fallbacks == 0
    assert (plain.engine, plain.threads, plain.precision) == (engine, 1, "fp32")
    quantized = load(files["int8"], engine, ONE).describe()
    assert quantized.quantized_convs == 3
    in_int8 = quantized.conv_precisions["int8"]
    assert quantized.fallbacks == 3 - in_int8
    assert in_int8 >= 2  # ONNX Runtime leaves the last one, whose output is not quantized, in float
    assert quantized.to_dict()["convolutions"] == quantized.conv_precisions
    assert (plain.computes_in, quantized.computes_in, quantized.precision) == ("fp32", "int8", "fp32")


def test_openvino_is_fp32_unless_asked(files, reference) -> None:
    """Left alone it takes bf16 on a CPU that has it."""
    runtime = load(files["float"], "openvino", ONE)
    assert np.abs(runtime(image())[0] - reference).max() < 1e-4
    asked = load(files["float"], "openvino", RuntimeOptions(threads=1, precision="bf16")).describe()
    if "avx512_bf16" in cpu_flags() or "amx_bf16" in cpu_flags():
        assert asked.precision == "bf16" and asked.conv_precisions == {"bf16": 3}
    else:
        assert asked.precision == "fp32" and "bf16 was asked for" in asked.notes[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_node_times(files, engine: str) -> None:
    runtime = load(files["float"], engine, RuntimeOptions(threads=1, profile=True))
    for _ in range(3):
        runtime(image())
    times = runtime.node_times()
    assert sum("Conv" in item.op for item in times) == 3
    assert all(item.ms >= 0 for item in times) and sum(item.ms for item in times) > 0
    with pytest.raises(UserError, match="does not tell"):
        load(files["float"], engine, ONE).node_times()


@pytest.mark.parametrize(
    ("feeds", "match"),
    [({"y": image()}, "has inputs"), ({"x": image()[0]}, "takes shape"), ({"x": image()[:, :2]}, "takes shape")],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_feeds_are_refused(files, engine: str, feeds, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load(files["float"], engine, ONE).run(feeds)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"no model at all", None])
def test_bad_files_are_refused(files, tmp_path: Path, engine: str, content: bytes | None) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(files["float"].read_bytes()[:400] if content is None else content)
    with pytest.raises(UserError, match=r"bad\.onnx"):
        load(bad, engine, ONE)


@pytest.mark.parametrize(
    ("engine", "options", "match"),
    [
        ("onnxruntime", {"precision": "bf16"}, "bf16 is not an option"),
        ("onnxruntime", {"device": "gpu"}, "CUDAExecutionProvider"),
        ("openvino", {"device": "gpu"}, "no GPU device"),
        ("openvino", {"precision": "int8"}, "no option int8"),
    ],
)
def test_what_this_machine_cannot_is_refused(files, engine: str, options, match: str) -> None:
    if options.get("device") == "gpu" and describe_machine().get("gpu"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=match):
        load(files["float"], engine, RuntimeOptions(**options))


def test_missing_engine_says_how_to_install(files) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    with pytest.raises(UserError, match="tensorrt is not installed") as caught:
        load(files["float"], "tensorrt")
    assert "pip install" in caught.value.remedy
    assert "tensorrt" not in runtimes.available_engines()
    with pytest.raises(UserError, match="Unknown engine") as caught:
        load(files["float"], "onnxruntim")
    assert "onnxruntime" in caught.value.remedy


@pytest.mark.parametrize(
    "options", [{"device": "tpu"}, {"precision": "fp8"}, {"threads": -1}, {"use_trt": True}], ids=str
)
def test_senseless_options_are_refused(options) -> None:
    with pytest.raises(UserError):
        RuntimeOptions(**options)


def test_find_model(files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No model at"):
        find_model(tmp_path / "absent", "onnxruntime")
    with pytest.raises(UserError, match="holds nothing"):
        find_model(tmp_path, "onnxruntime")
    (tmp_path / "a.onnx").write_bytes(files["float"].read_bytes())
    assert find_model(tmp_path, "onnxruntime") == tmp_path / "a.onnx"
    (tmp_path / "b.onnx").write_bytes(files["float"].read_bytes())
    with pytest.raises(UserError, match="holds 2 files"):
        find_model(tmp_path, "openvino")
    (tmp_path / "model.onnx").write_bytes(files["float"].read_bytes())
    assert find_model(tmp_path, "openvino") == tmp_path / "model.onnx"
    with pytest.raises(UserError, match="does not read"):
        find_model(files["float"], "paddle")
    (tmp_path / "stage.json").write_text("{}")  # a JSON file without parameters is no model
    with pytest.raises(UserError, match="holds nothing that paddle"):
        find_model(tmp_path, "paddle")


def test_machine() -> None:
    facts = describe_machine()
    assert facts["cpu"] and facts["physical_cores"] >= 1
    assert peak_memory_mb() > 10


def test_tensorrt_profiles() -> None:
    spec = TensorSpec("x", "float32", (-1, 3, -1, 256))
    assert profile_shapes(spec, {}) == ((1, 3, 128, 256), (1, 3, 512, 256), (4, 3, 1024, 256))
    given = ((1, 3, 64, 256), (2, 3, 64, 256), (8, 3, 96, 256))
    assert profile_shapes(spec, {"x": given}) == given == profile_shapes(spec, {"*": given})
    for wrong in (given[::-1], ((1, 3, 64, 64),) * 3, ((1, 3, 64),) * 3):
        with pytest.raises(UserError, match="does not fit input 'x'"):
            profile_shapes(spec, {"x": wrong})


def test_tensorrt_flags_and_cache_key() -> None:
    assert [builder_flags(name) for name in ("fp32", "fp16", "int8")] == [(), ("FP16",), ("INT8", "FP16")]
    shapes = [((1, 3, 8, 8),) * 3]
    key = cache_key(b"model", "10.0", "gpu", "fp16", shapes)
    others = [
        cache_key(b"other", "10.0", "gpu", "fp16", shapes),
        cache_key(b"model", "10.1", "gpu", "fp16", shapes),
        cache_key(b"model", "10.0", "gpu", "int8", shapes),
        cache_key(b"model", "10.0", "gpu", "fp16", [((2, 3, 8, 8),) * 3]),
    ]
    assert key == cache_key(b"model", "10.0", "gpu", "fp16", shapes) and len({key, *others}) == 5


def test_tensorrt_layers() -> None:
    layer = {"Name": "conv1 + relu1", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8 NC/32HW32"}]}
    assert layer_precision(layer) == NodePrecision("conv1 + relu1", "CaskConvolution", "int8", True)
    plain = {"Name": "add", "LayerType": "PointWiseV2", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]}
    assert layer_precision(plain) == NodePrecision("add", "PointWiseV2", "fp32", False)


@pytest.mark.skipif(sys.platform != "linux", reason="the library that Paddle loads is looked up in /proc")
def test_paddle_inference_leaves_the_threads_as_they_were(tmp_path: Path) -> None:
    """Whatever runs before it and after it in one process computes alike, to the last bit."""
    code = """
import ctypes, sys
import numpy as np, paddle
from paddleseg_slim.deploy.runtimes import load
from paddleseg_slim.graph import capture, export_inference
from paddleseg_slim.train.device import set_threads
layer = capture(paddle.nn.Conv2D(3, 4, 3), [paddle.static.InputSpec([None, 3, 8, 8], "float32", "img")])
files = export_inference(layer, sys.argv[1], input_shapes=[(-1, 3, 8, 8)])
set_threads(3)
runtime = load(files[0], "paddle")
runtime.run({runtime.inputs[0].name: np.zeros((1, 3, 8, 8), np.float32)})
library = next(line.split()[-1] for line in open("/proc/self/maps") if "libiomp5" in line)
print("threads", ctypes.CDLL(library).omp_get_max_threads())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0 and "threads 3" in done.stdout, done.stdout + done.stderr


def test_tensorrt_is_measured_on_the_gpu_for_the_size_and_precision_asked_for() -> None:
    shape = (1, 3, 1024, 2048)
    for precision in ("int8", "fp16"):
        candidate = Candidate("m", "model.onnx", "tensorrt", quant_result.engine_options("tensorrt", precision, 2))
        options = options_for(candidate, 2, shape)
        assert (options.device, options.precision) == ("gpu", precision) and "FP16" in builder_flags(precision)
        assert profile_shapes(TensorSpec("x", "float32", (-1, 3, -1, -1)), options.input_shapes) == (shape,) * 3
    on_cpu = quant_result.engine_options("openvino", "int8", 2)
    assert on_cpu == RuntimeOptions(threads=2)
    assert not options_for(Candidate("m", "model.onnx", "openvino", on_cpu), 2, shape).input_shapes


class _Asked:
    """Stands for Paddle's configuration object: keeps what is asked of it."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple] = {}

    def __getattr__(self, name: str):
        return lambda *values, **named: self.calls.update({name: (*values, *named.values())})


def test_what_paddle_is_asked_for_tensorrt(monkeypatch) -> None:
    """On a GPU, as far as it can be told without one; a file of shapes counts before shapes of the input."""
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    shapes = {"img": ((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))}
    for file, asked in ((None, "set_trt_dynamic_shape_info"), ("s.txt", "enable_tuned_tensorrt_dynamic_shape")):
        runtime, config = PaddleRuntime.__new__(PaddleRuntime), _Asked()
        runtime._paddle = paddle
        runtime.options = RuntimeOptions(device="gpu", use_trt=True, input_shapes=shapes, trt_shapes=file)
        runtime._use_gpu(config)
        assert set(config.calls) == {"enable_use_gpu", "enable_tensorrt_engine", asked}
    assert config.calls[asked] == ("s.txt", True)

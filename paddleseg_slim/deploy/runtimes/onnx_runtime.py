"""ONNX Runtime: CPU, CUDA and TensorRT execution providers."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from paddleseg_slim.deploy.runtimes.base import (
    NodePrecision,
    NodeTime,
    Runtime,
    RuntimeInfo,
    RuntimeOptions,
    TensorSpec,
    check_feeds,
)
from paddleseg_slim.deploy.runtimes.machine import cpu_name
from paddleseg_slim.errors import UserError

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}
_FLOAT_CONVS = {"Conv", "FusedConv", "ConvTranspose", "NhwcFusedConv", "NhwcConv"}
_INT8_CONVS = {"QLinearConv", "ConvInteger", "QLinearConvTranspose"}
_LOGGED = "_kernel_time"


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, _DTYPES.get(node.type, "float32"), shape)


def _providers(options: RuntimeOptions) -> list[Any]:
    """The execution providers asked for, the CPU last for the nodes that they leave."""
    if options.device == "cpu":
        return ["CPUExecutionProvider"]
    wanted: list[Any] = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if options.use_trt:
        settings: dict[str, Any] = {
            "trt_fp16_enable": options.precision in ("fp16", "int8"),
            "trt_int8_enable": options.precision == "int8",
        }
        if options.cache_dir:
            settings.update(
                trt_engine_cache_enable=True,
                trt_engine_cache_path=options.cache_dir,
                trt_timing_cache_enable=True,
                trt_timing_cache_path=options.cache_dir,
            )
        for place, key in enumerate(("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")):
            shapes = [f"{name}:{'x'.join(map(str, sizes[place]))}" for name, sizes in options.input_shapes.items()]
            if shapes:
                settings[key] = ",".join(shapes)
        wanted.insert(0, ("TensorrtExecutionProvider", settings))
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if first not in onnxruntime.get_available_providers():
        raise UserError(
            f"This ONNX Runtime {onnxruntime.__version__} has no {first}.",
            "pip install onnxruntime-gpu (and TensorRT), or run with --device cpu.",
        )
    return wanted


class OnnxRuntime(Runtime):
    """A model in ONNX Runtime. Waiting threads sleep instead of spinning, so that others on the machine are fair."""

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        if options.precision != "fp32" and not options.use_trt:
            raise UserError(
                f"ONNX Runtime on {options.device} computes in the precision that the file is written in; "
                f"{options.precision} is not an option of the run.",
                "Leave --precision out, or give a file in that precision (or TensorRT on a GPU).",
            )
        self.path = path
        self.options = options
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runs = 0
        settings = self._settings()
        if options.profile:
            self._folder = tempfile.TemporaryDirectory()
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(self._folder.name) / "ort")
        self._session = self._start(settings)
        if options.device == "gpu" and self._session.get_providers()[0] == "CPUExecutionProvider":
            raise UserError(
                "ONNX Runtime found no usable GPU and fell back to the CPU.", "Check the driver, or use --device cpu."
            )
        self.inputs = [_spec(node) for node in self._session.get_inputs()]
        self.outputs = [_spec(node) for node in self._session.get_outputs()]
        self._names = [spec.name for spec in self.outputs]

    def _settings(self) -> onnxruntime.SessionOptions:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.options.thread_count
        settings.inter_op_num_threads = 1
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = 3
        return settings

    def _start(self, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(str(self.path), settings, providers=_providers(self.options))
        except Exception as error:  # ONNX Runtime's own classes share no base below Exception
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"ONNX Runtime cannot load {self.path}: {str(error).splitlines()[0]}", "Export the model again."
            ) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Runtime.run`."""
        self._runs += 1
        return self._session.run(self._names, check_feeds(self.inputs, feeds))

    def describe(self) -> RuntimeInfo:
        """Read the precision of every node from the optimised graph, which a second session writes out."""
        nodes, quantized, note = self._optimised_nodes()
        gpu = self.options.device == "gpu"
        providers = self._session.get_providers()
        return RuntimeInfo(
            engine="onnxruntime",
            version=onnxruntime.__version__,
            device=f"gpu: {providers[0]}" if gpu else f"cpu: {cpu_name()}",
            threads=None if gpu else self.options.thread_count,
            precision=self.options.precision,
            notes=(note,) if note else (),
            nodes=nodes,
            quantized_convs=quantized,
        )

    def _optimised_nodes(self) -> tuple[tuple[NodePrecision, ...], int | None, str]:
        try:
            import onnx
        except ImportError:
            return (), None, "The precision of the nodes is unknown: the package onnx is not installed."
        if self.options.use_trt:
            return (), None, "ONNX Runtime does not tell the precision of nodes that TensorRT runs."
        with tempfile.TemporaryDirectory() as folder:
            settings = self._settings()
            settings.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            self._start(settings)
            graph = onnx.load(settings.optimized_model_filepath, load_external_data=False).graph
        source = onnx.load(str(self.path), load_external_data=False).graph
        half = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
        nodes = tuple(_precision(node, half) for node in graph.node)
        return nodes, _quantized_convs(source), ""

    def node_times(self) -> list[NodeTime]:
        """Median node times from ONNX Runtime's own profile, the first run left out; ends the profiling."""
        if self._folder is None:
            return super().node_times()
        with open(self._session.end_profiling(), encoding="utf-8") as stream:
            events = [event for event in json.load(stream) if event.get("name", "").endswith(_LOGGED)]
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            times[event["name"][: -len(_LOGGED)], event["args"]["op_name"]].append(event["dur"] / 1000)
        self._folder.cleanup()
        self._folder = None
        return [
            NodeTime(name, op, float(np.median(values[1:] or values)), (name,)) for (name, op), values in times.items()
        ]


def _precision(node: Any, half: set[str]) -> NodePrecision:
    conv = node.op_type in _FLOAT_CONVS or node.op_type in _INT8_CONVS
    if node.op_type.startswith("QLinear") or "Integer" in node.op_type or node.op_type == "QGemm":
        precision = "int8"
    elif any(name in half for name in node.input):
        precision = "fp16"
    else:
        precision = "fp32"
    return NodePrecision(node.name, node.op_type, precision, conv)


def _quantized_convs(graph: Any) -> int:
    """Convolutions of a model file whose input and weight are both dequantized integers."""
    integer = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    count = 0
    for node in graph.node:
        if node.op_type in _INT8_CONVS:
            count += 1
        elif node.op_type in ("Conv", "ConvTranspose"):
            count += node.input[0] in integer and node.input[1] in integer
    return count

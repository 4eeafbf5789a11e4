"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

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

_HINTS = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8", "i32": "int32", "i64": "int64"}


def _spec(port: Any) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()).name, shape)


class OpenVinoRuntime(Runtime):
    """A model in OpenVINO (``.xml`` or ``.onnx``), compiled for one request at a time.

    The precision is always set: left alone, OpenVINO takes bf16 on a CPU that has it, and fp32 would not be fp32.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        core = openvino.Core()
        self._device = "GPU" if options.device == "gpu" else "CPU"
        if not any(name.startswith(self._device) for name in core.available_devices):
            raise UserError(
                f"OpenVINO {openvino.__version__} finds no {self._device} device here.", "Use --device cpu."
            )
        if options.use_trt or options.precision not in _HINTS:
            asked = "TensorRT" if options.use_trt else options.precision
            raise UserError(
                f"OpenVINO has no option {asked}.",
                "It runs fp32, bf16, fp16, and quantized files in int8 by themselves.",
            )
        self.options = options
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
            "PERF_COUNT": options.profile,
        }
        if self._device == "CPU":
            config["INFERENCE_NUM_THREADS"] = options.thread_count
        if options.cache_dir:
            config["CACHE_DIR"] = options.cache_dir
        try:
            self._model = core.read_model(str(path))
            self._compiled = core.compile_model(self._model, self._device, config)
        except RuntimeError as error:
            reason = [line for line in str(error).splitlines() if line.strip()][-1]
            raise UserError(f"OpenVINO cannot load {path}: {reason}", "Export the model again.") from error
        self._request = self._compiled.create_infer_request()
        self.inputs = [_spec(port) for port in self._compiled.inputs]
        self.outputs = [_spec(port) for port in self._compiled.outputs]
        self._times: dict[str, list[float]] = {}
        self._runs = 0

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Runtime.run`."""
        results = self._request.infer(check_feeds(self.inputs, feeds), share_inputs=True, share_outputs=False)
        if self.options.profile:
            self._count()
        return [results[port] for port in self._compiled.outputs]

    def _count(self) -> None:
        self._runs += 1
        if self._runs == 1:  # the first run compiles kernels for the shape
            return
        for entry in self._request.profiling_info:
            milliseconds = entry.real_time.total_seconds() * 1000
            self._times.setdefault(entry.node_name, []).append(milliseconds)

    def describe(self) -> RuntimeInfo:
        """Read the precision of every node from the execution graph."""
        nodes = tuple(
            NodePrecision(
                op.get_friendly_name(),
                _info(op, "layerType"),
                _NAMES.get(_info(op, "runtimePrecision").lower(), _info(op, "runtimePrecision").lower()),
                _info(op, "layerType") in ("Convolution", "Deconvolution"),
            )
            for op in self._compiled.get_runtime_model().get_ordered_ops()
        )
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        in_force = next(name for name, kind in _HINTS.items() if kind == hint) if hint in _HINTS.values() else str(hint)
        notes = []
        if in_force != self.options.precision:
            notes.append(f"{self.options.precision} was asked for; this processor runs it in {in_force}.")
        return RuntimeInfo(
            engine="openvino",
            version=openvino.__version__.split("-")[0],
            device=f"{self._device.lower()}: {cpu_name()}" if self._device == "CPU" else "gpu",
            threads=self.options.thread_count if self._device == "CPU" else None,
            precision=in_force,
            notes=tuple(notes),
            nodes=nodes,
            quantized_convs=_quantized_convs(self._model),
        )

    def node_times(self) -> list[NodeTime]:
        """Median node times from the performance counters, the first run left out."""
        if not self.options.profile:
            return super().node_times()
        origins = {op.get_friendly_name(): op for op in self._compiled.get_runtime_model().get_ordered_ops()}
        times = []
        for name, values in self._times.items():
            op = origins.get(name)
            if op is not None:
                origin = tuple(part for part in _info(op, "originalLayersNames").split(",") if part)
                times.append(NodeTime(name, _info(op, "layerType"), float(np.median(values)), origin))
        return times


def _info(op: Any, key: str) -> str:
    """A run-time fact of a node of the execution graph, as text."""
    info = op.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _quantized_convs(model: Any) -> int:
    """Convolutions of the model as read whose data input comes from a FakeQuantize or a dequantized integer."""
    count = 0
    for op in model.get_ordered_ops():
        if "Convolution" in op.get_type_name():
            count += all(_is_quantized(op.input_value(port)) for port in (0, 1))
    return count


_PASS_THROUGH = ("Multiply", "Subtract", "Convert", "Reshape", "Unsqueeze", "Transpose")


def _is_quantized(value: Any) -> bool:
    """Whether a value is dequantized from an integer tensor, following the constants' arithmetic upwards."""
    node = value.get_node()
    for _ in range(8):
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return True
        if kind not in _PASS_THROUGH:
            return kind == "Constant" and node.get_output_element_type(0) in (openvino.Type.i8, openvino.Type.u8)
        node = node.input_value(0).get_node()
    return False

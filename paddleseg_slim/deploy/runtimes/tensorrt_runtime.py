"""Native TensorRT (10): builds an engine from an ONNX file, or loads a built one. It has not run on a GPU here.

Quantized layers come from QuantizeLinear / DequantizeLinear in the file; fp16 is a choice of the build. Dynamic inputs
get one optimisation profile. What the builder learns about the GPU is kept in a timing cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.deploy.runtimes.base import (
    ANY_INPUT,
    NodePrecision,
    Runtime,
    RuntimeInfo,
    RuntimeOptions,
    TensorSpec,
    check_feeds,
)
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file

WORKSPACE_BYTES = 1 << 30
_DEFAULT_SIDES = {0: (1, 1, 4), 2: (128, 512, 1024), 3: (128, 512, 2048)}
"""Minimum, optimum and maximum of a dynamic axis that `RuntimeOptions.input_shapes` says nothing about."""

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def profile_shapes(spec: TensorSpec, given: Mapping[str, Profile]) -> Profile:
    """Minimum, optimum and maximum shape of an input for the optimisation profile.

    Raises:
        UserError: the shapes given for it do not fit it, or are not in order.
    """
    shapes = given.get(spec.name, given.get(ANY_INPUT))
    if shapes is None:
        sides = [
            (size,) * 3 if size != -1 else _DEFAULT_SIDES.get(axis, (1, 1, 1)) for axis, size in enumerate(spec.shape)
        ]
        low, best, high = zip(*sides)
        return low, best, high
    low, best, high = (tuple(shape) for shape in shapes)
    fits = all(
        len(shape) == len(spec.shape) and all(own in (-1, side) for own, side in zip(spec.shape, shape))
        for shape in (low, best, high)
    )
    if not fits or not all(a <= b <= c for a, b, c in zip(low, best, high)):
        raise UserError(
            f"The profile {low}, {best}, {high} does not fit input {spec.name!r} {list(spec.shape)}.",
            "Give minimum <= optimum <= maximum, equal to the model's own sizes where those are fixed.",
        )
    return low, best, high


def builder_flags(precision: str) -> tuple[str, ...]:
    """Names of the builder flags for a precision; int8 layers may then fall back to fp16."""
    flags = {"fp32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16")}
    return flags[precision]


def cache_key(content: bytes, version: str, gpu: str, precision: str, profiles: Sequence[Profile]) -> str:
    """File name of a cached engine: an engine is good for one file, TensorRT, GPU, precision and profile."""
    digest = hashlib.sha256(content)
    digest.update(json.dumps([version, gpu, precision, profiles]).encode())
    return f"{digest.hexdigest()[:24]}.engine"


def layer_precision(layer: Mapping[str, Any]) -> NodePrecision:
    """A layer of the engine inspector's JSON as a `NodePrecision`."""
    kinds = {"Int8": "int8", "Half": "fp16", "FP16": "fp16", "BF16": "bf16", "BFloat16": "bf16"}
    formats = " ".join(str(item.get("Format/Datatype", "")) for item in layer.get("Inputs", []))
    precision = next((name for mark, name in kinds.items() if mark in formats), "fp32")
    op = str(layer.get("LayerType", ""))
    return NodePrecision(
        str(layer.get("Name", "")), op, precision, "conv" in f"{op} {layer.get('ParameterType', '')}".lower()
    )


class TensorRtRuntime(Runtime):
    """A model in TensorRT: ``.onnx``, which is built (minutes), or ``.engine`` / ``.plan``, which is loaded."""

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        import tensorrt
        from cuda.bindings import runtime as cuda

        self._trt, self._cuda, self.options = tensorrt, cuda, options
        status, count = cuda.cudaGetDeviceCount()
        if status != cuda.cudaError_t.cudaSuccess or count == 0:
            raise UserError(
                "TensorRT finds no GPU.", "Run on a machine with an NVIDIA GPU, or choose another --engine."
            )
        self._gpu = self._call(cuda.cudaGetDeviceProperties(0)).name.decode()
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        content = path.read_bytes()
        plan = content if path.suffix in (".engine", ".plan") else self._built(logger, path, content)
        self._engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
        if self._engine is None:
            raise UserError(
                f"TensorRT {tensorrt.__version__} cannot load {path}: an engine is good for one version and GPU.",
                "Give the .onnx, so that it is built again.",
            )
        self._context = self._engine.create_execution_context()
        self._stream = self._call(cuda.cudaStreamCreate())
        self._memory: dict[str, tuple[int, int]] = {}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT for name in names]
        self.inputs = [self._spec(name) for name, is_input in zip(names, inputs) if is_input]
        self.outputs = [self._spec(name) for name, is_input in zip(names, inputs) if not is_input]

    def _call(self, result: Sequence[Any]) -> Any:
        """The value of a CUDA call.

        Raises:
            RuntimeError: it failed.
        """
        status, *values = result
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise RuntimeError(f"CUDA: {status}")
        return values[0] if values else None

    def _spec(self, name: str) -> TensorSpec:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        return TensorSpec(name, dtype, tuple(self._engine.get_tensor_shape(name)))

    def _built(self, logger: Any, path: Path, content: bytes) -> bytes:
        """Parse and build, or read what was built before for the same file, GPU and options."""
        trt = self._trt
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(content):
            raise UserError(f"TensorRT cannot read {path}: {parser.get_error(0).desc()}", "Export the model again.")
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        specs = [TensorSpec(item.name, "float32", tuple(item.shape)) for item in inputs]
        profiles = [profile_shapes(spec, self.options.input_shapes) for spec in specs]
        folder = Path(self.options.cache_dir) if self.options.cache_dir else None
        key = cache_key(content, trt.__version__, self._gpu, self.options.precision, profiles)
        if folder and (folder / key).is_file():
            return (folder / key).read_bytes()
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        for flag in builder_flags(self.options.precision):
            config.set_flag(getattr(trt.BuilderFlag, flag))
        profile = builder.create_optimization_profile()
        for spec, shapes in zip(specs, profiles):
            profile.set_shape(spec.name, *shapes)
        config.add_optimization_profile(profile)
        timing = folder / "timing.cache" if folder else None
        config.set_timing_cache(
            config.create_timing_cache(timing.read_bytes() if timing and timing.is_file() else b""), False
        )
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UserError(f"TensorRT cannot build {path}.", "Give a fixed --input_shape, or another precision.")
        if folder and timing:
            for target, data in ((folder / key, plan), (timing, config.get_timing_cache().serialize())):
                with atomic_file(target) as temporary:
                    temporary.write_bytes(bytes(data))
        return bytes(plan)

    def _address(self, name: str, size: int) -> int:
        """Device memory of at least ``size`` bytes for a tensor; it is kept and grows when needed."""
        address, held = self._memory.get(name, (0, 0))
        if held < size:
            if address:
                self._call(self._cuda.cudaFree(address))
            address = self._call(self._cuda.cudaMalloc(size))
            self._memory[name] = (address, size)
        return address

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Runtime.run`."""
        copy, kinds = self._cuda.cudaMemcpyAsync, self._cuda.cudaMemcpyKind
        for name, array in check_feeds(self.inputs, feeds).items():
            if not self._context.set_input_shape(name, array.shape):
                raise UserError(
                    f"Input {name!r} of shape {list(array.shape)} is outside the engine's optimisation profile.",
                    "Build it with input_shapes that hold this size.",
                )
            address = self._address(name, array.nbytes)
            self._call(copy(address, array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice, self._stream))
            self._context.set_tensor_address(name, address)
        results = []
        for spec in self.outputs:
            result = np.empty(tuple(self._context.get_tensor_shape(spec.name)), spec.dtype)
            self._context.set_tensor_address(spec.name, self._address(spec.name, result.nbytes))
            results.append(result)
        self._context.execute_async_v3(self._stream)
        for spec, result in zip(self.outputs, results):
            source = self._memory[spec.name][0]
            self._call(copy(result.ctypes.data, source, result.nbytes, kinds.cudaMemcpyDeviceToHost, self._stream))
        self._call(self._cuda.cudaStreamSynchronize(self._stream))
        return results

    def describe(self) -> RuntimeInfo:
        """Read the precision of every layer from the engine inspector."""
        inspector = self._engine.create_engine_inspector()
        data = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        layers = [layer for layer in data.get("Layers", []) if isinstance(layer, dict)]
        return RuntimeInfo(
            engine="tensorrt",
            version=self._trt.__version__,
            device=f"gpu: {self._gpu}",
            threads=None,
            precision=self.options.precision,
            nodes=tuple(layer_precision(layer) for layer in layers),
        )

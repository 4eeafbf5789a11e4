"""The interface that every inference engine is reached by, and what an engine says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.deploy.runtimes.machine import physical_cores
from paddleseg_slim.errors import UserError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEVICES = ("cpu", "gpu")


@dataclass(frozen=True)
class RuntimeOptions:
    """How a model is to be run.

    Attributes:
        device: ``cpu`` or ``gpu``. Never changed silently: what is missing is an error.
        threads: CPU threads of one run; 0 means the physical cores.
        precision: what floating-point layers compute in (``fp32``, ``fp16``, ``bf16``). ``int8`` asks a TensorRT
            backend to honour the quantized layers of the file; elsewhere a quantized file is int8 by itself.
        use_trt: on ``gpu``, hand sub-graphs to TensorRT through the engine's own backend.
        input_shapes: for TensorRT, each input's (minimum, optimum, maximum) shape.
        cache_dir: where engines that compile slowly keep what they compiled; None keeps nothing.
        min_subgraph_size: the smallest sub-graph that Paddle Inference hands to TensorRT.
        trt_shapes: with ``use_trt``, tensor shapes that Paddle Inference reads from a file, not ``input_shapes``.
        collect_shapes: where Paddle Inference writes such a file when the runtime is deleted; without ``use_trt``.
        profile: collect the time of each node (slower); read it with `Runtime.node_times`.
    """

    device: str = "cpu"
    threads: int = 0
    precision: str = "fp32"
    use_trt: bool = False
    input_shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    cache_dir: str | None = None
    min_subgraph_size: int = 3
    trt_shapes: str | None = None
    collect_shapes: str | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UserError(f"Unknown device {self.device!r}.", f"Choose one of: {', '.join(DEVICES)}.")
        if self.precision not in PRECISIONS:
            raise UserError(f"Unknown precision {self.precision!r}.", f"Choose one of: {', '.join(PRECISIONS)}.")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}.", "Give a positive number, or 0 for the physical cores.")
        if self.use_trt and self.device != "gpu":
            raise UserError("TensorRT was asked for on the CPU.", "Add --device gpu, or leave TensorRT out.")

    @property
    def thread_count(self) -> int:
        """The number of threads in force: ``threads``, or the physical cores that this process may use."""
        return self.threads or physical_cores()


ANY_INPUT = "*"
"""Key of `RuntimeOptions.input_shapes` for inputs that are not named there."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of an input or output; -1 is an axis of any length."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NodePrecision:
    """One node as the engine really runs it.

    Attributes:
        name: the engine's name of the node, the graph's own where the engine kept it.
        op: operator type in the engine's words.
        precision: what it computes in: ``int8``, ``fp32``, ``bf16``, ``fp16``.
        is_conv: whether it is a convolution (transposed ones included).
    """

    name: str
    op: str
    precision: str
    is_conv: bool


@dataclass(frozen=True)
class NodeTime:
    """Median time of one node in one run.

    Attributes:
        name: the node's name in the engine's own graph.
        op: operator type in the engine's words.
        ms: milliseconds a run.
        origin: names of the nodes of the model file that this node stands for (an engine fuses several into one).
    """

    name: str
    op: str
    ms: float
    origin: tuple[str, ...]


@dataclass(frozen=True)
class RuntimeInfo:
    """What an engine says about itself and the model it holds.

    Attributes:
        engine: engine name.
        version: engine version.
        device: the processor in words (``cpu: Intel Xeon ...``).
        threads: threads of one run; None where it does not apply.
        precision: the floating-point precision really in force.
        notes: what was asked and is not there, in sentences.
        nodes: the nodes as run; empty where the engine cannot tell.
        quantized_convs: convolutions that the file asks to run in int8; None where unknown.
    """

    engine: str
    version: str
    device: str
    threads: int | None
    precision: str
    notes: tuple[str, ...] = ()
    nodes: tuple[NodePrecision, ...] = ()
    quantized_convs: int | None = None

    @property
    def conv_precisions(self) -> dict[str, int]:
        """How many convolutions run in each precision."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            if node.is_conv:
                counts[node.precision] = counts.get(node.precision, 0) + 1
        return counts

    @property
    def computes_in(self) -> str:
        """``int8`` if the engine runs convolutions in integers, else the floating-point precision in force."""
        return "int8" if self.conv_precisions.get("int8") else self.precision

    @property
    def fallbacks(self) -> int | None:
        """Convolutions quantized in the file that the engine does not run in int8; None where it cannot be told."""
        if self.quantized_convs is None or not self.nodes:
            return None
        return max(0, self.quantized_convs - self.conv_precisions.get("int8", 0))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the list of nodes is summed up as counts."""
        data = asdict(self)
        data.pop("nodes")
        data["notes"] = list(self.notes)
        data["convolutions"] = self.conv_precisions
        data["fallbacks"] = self.fallbacks
        data["computes_in"] = self.computes_in
        return data


class Runtime(ABC):
    """A model loaded by an inference engine. Use :func:`paddleseg_slim.deploy.runtimes.load` to get one."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    @abstractmethod
    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        """Load the model file at ``path``."""

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once. ``feeds`` has an array for every input by name; the outputs come in the model's order."""

    @abstractmethod
    def describe(self) -> RuntimeInfo:
        """Tell the engine, and as far as it can tell, the precision of every node. May take as long as a load."""

    def node_times(self) -> list[NodeTime]:
        """Median time of each node over the runs so far; needs ``RuntimeOptions.profile``.

        Raises:
            UserError: this engine does not tell.
        """
        raise UserError(
            f"{type(self).__name__} does not tell the time of single nodes.",
            "Profile with --engine onnxruntime or --engine openvino.",
        )

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Run with the inputs in order."""
        return self.run({spec.name: array for spec, array in zip(self.inputs, arrays)})


def check_feeds(inputs: list[TensorSpec], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the feeds with the dtypes of the inputs, contiguous; names and shapes are checked.

    Raises:
        UserError: an input is missing, unknown, or has a shape that the model does not take.
    """
    known = {spec.name for spec in inputs}
    if set(feeds) != known:
        raise UserError(
            f"The model has inputs {sorted(known)}, it was given {sorted(feeds)}.", "Feed every input by its name."
        )
    arrays = {}
    for spec in inputs:
        array = np.ascontiguousarray(feeds[spec.name], dtype=spec.dtype)
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, array.shape)
        )
        if not fits:
            raise UserError(
                f"Input {spec.name!r} takes shape {list(spec.shape)}, it was given {list(array.shape)}.",
                "Resize the input, or export the model with a dynamic --input_shape (-1).",
            )
        arrays[spec.name] = array
    return arrays

"""Graphs, or parts of them, run without gradients by ONNX Runtime on the CPU instead of Paddle's eager kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddleseg_slim.deploy.runtimes import RuntimeOptions, require_engine
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Executor, Graph, GraphLayer, PaddleExecutor, Runner, Value, map_structure
from paddleseg_slim.tasks.base import Forward


class OnnxExecutor:
    """Runs graphs through ONNX Runtime on the CPU (`graph.Executor`). Extra inputs such as gates are fed like images.

    Quantizers round as in the graph, between float kernels: integer kernels would round otherwise.

    Args:
        threads: CPU threads; 0 is the physical cores.

    Raises:
        UserError: ONNX Runtime or the package onnx is not installed.
    """

    name = "onnxruntime"

    def __init__(self, threads: int = 0) -> None:
        require_engine("onnxruntime")
        self._threads = RuntimeOptions(threads=threads).thread_count

    def prepare(
        self, graph: Graph, tensors: Mapping[str, Any], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> Runner:
        """Write ``graph`` as an ONNX model in memory and start a session (0.1 - 1 s); see `graph.Executor`.

        Args:
            graph: inputs with an axis of -1 take any length there.
            tensors: an array or a Paddle tensor for every parameter of the graph.
            shapes: of inputs by name, instead of the graph's.

        Raises:
            UserError: an op has no ONNX function; the message names the node.
        """
        import onnxruntime

        from paddleseg_slim.deploy.onnx import graph_to_onnx, output_name

        arrays = {name: _array(tensors[name]) for name in graph.parameters}
        sizes = [(shapes or {}).get(value.name, value.shape) for value in graph.inputs]
        model = graph_to_onnx(graph, arrays, sizes, check=False)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self._threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.disable_quant_qdq", "1")  # round as the graph says, not as int8 does
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        read = {item.name for item in session.get_inputs()}
        wanted = {value.name: output_name(value) for value in graph.output_values()}
        kinds = {value.name: np.dtype(value.dtype) for value in graph.inputs if value.name in read}

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            arrays = {name: np.ascontiguousarray(feeds[name], kind) for name, kind in kinds.items()}
            return dict(zip(wanted, session.run(list(wanted.values()), arrays)))

        return run


def _array(item: Any) -> np.ndarray:
    return item if isinstance(item, np.ndarray) else item.numpy()


def executor(engine: str = "onnxruntime", threads: int = 0) -> Executor:
    """The executor called ``engine``: ``onnxruntime`` or ``paddle``.

    Raises:
        UserError: it is not installed, or cannot run parts of graphs.
    """
    if engine == "paddle":
        return PaddleExecutor()
    if engine == "onnxruntime":
        return OnnxExecutor(threads)
    raise UserError(f"{engine} cannot run parts of a graph.", "Choose --engine onnxruntime or --engine paddle.")


def engine_forward(layer: GraphLayer, runs_on: Executor) -> Forward:
    """Make a `Forward` of a model in evaluation: images in, its outputs in its own structure, through an executor.

    The weights are those of this moment; after training on, make another.
    """
    graph = layer.eval_graph
    runner = runs_on.prepare(graph, {name: layer.tensor(name) for name in graph.parameters})
    name = graph.inputs[0].name

    def forward(images: np.ndarray) -> Any:
        results = runner({name: images})
        return map_structure(lambda leaf: results[leaf.name] if isinstance(leaf, Value) else leaf, graph.outputs)

    return forward

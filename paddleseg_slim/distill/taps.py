"""Where a student and a teacher are listened to: values of their graphs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.graph import Graph, GraphLayer, Value, infer_shapes

AUTOMATIC = "auto"
_ENDS = ("relu", "relu6", "hardswish", "swish", "silu", "gelu", "batch_norm", "batch_norm_", "add", "concat")
"""Operations whose outputs are the features of a stage."""

_RESIZING = ("bilinear_interp", "nearest_interp", "bicubic_interp", "pad", "slice", "dropout", "transpose", "reshape")


class Taps:
    """Listen to values of a `GraphLayer` while it runs in one mode; its outputs stay as they are.

    Args:
        model: to listen to. Its graph gets further outputs until `remove`.
        names: nodes, layers or regular expressions; see `find_values`.
        training: listen in training mode, else in evaluation mode.

    Raises:
        UserError: a name fits nothing.
    """

    def __init__(self, model: GraphLayer, names: Sequence[str], training: bool) -> None:
        self.model, self.training = model, training
        self.graph = model.train_graph if training else model.eval_graph
        self.features: list[Any] = []
        values = [value for name in names for value in find_values(self.graph, name)]
        self.names = [value.name for value in values]
        self._outputs = self.graph.outputs
        self._hook = None
        if values:
            self.graph.outputs = {"outputs": self._outputs, "taps": values}
            self.graph.touch()
            self._hook = model.register_forward_post_hook(self._take)

    def _take(self, model: Any, inputs: Any, outputs: Any) -> Any:
        if model.training is not self.training:
            return outputs
        self.features = outputs["taps"]
        return outputs["outputs"]

    def remove(self) -> None:
        """Give the graph its own outputs again."""
        if self._hook is not None:
            self._hook.remove()
            self.graph.outputs = self._outputs
            self.graph.touch()
            self._hook = None


def find_values(graph: Graph, name: str) -> list[Value]:
    """The outputs of a node, of the last node in a layer, or of everything that a regular expression fits.

    Args:
        graph: to search.
        name: a node's name, a layer's path (``backbone.stage2``), or an expression that fits whole names of nodes.

    Raises:
        UserError: nothing is called so; the remedy names what is.
    """
    if graph.has_node(name):
        return [graph.node(name).out]
    inside = [node for node in graph.nodes if node.layer == name or node.layer.startswith(f"{name}.")]
    if inside:
        return [inside[-1].out]
    try:
        found = [node.out for node in graph.nodes if re.fullmatch(name, node.name)]
    except re.error as error:
        raise UserError(f"{name!r} is no regular expression: {error}.", "Give a node's name, or escape it.") from None
    if not found:
        known = [node.name for node in graph.nodes] + [node.layer for node in graph.nodes]
        raise UserError(f"No node or layer of the graph is called {name!r}.", nearest(name, filter(None, known)))
    return found


def stages(
    graph: Graph, input_shape: tuple[int, ...], logits: Callable[[Any], Any] | None = None
) -> dict[tuple[int, int], Value]:
    """The last features at 1/2, 1/4, ... 1/32 of the input's resolution, in the order of the graph; logits are none.

    Args:
        graph: of a model of images.
        input_shape: ``[N, C, H, W]``.
        logits: picks the main output, so that nothing of auxiliary heads is taken; None: all outputs count.
    """
    sizes = {tuple(-(-side // 2**level) for side in input_shape[2:]) for level in range(1, 6)}
    run = infer_shapes(graph, [input_shape])
    ends = _logits(graph)
    found: dict[tuple[int, int], Value] = {}
    wanted = graph.output_values() if logits is None else [logits(graph.outputs)]
    for node in graph.ancestors(wanted, ()):
        if node.op not in _ENDS or node.out in ends:
            continue
        shape = tuple(run.shape(node.out))
        if len(shape) == 4 and shape[2:] in sizes:
            found[shape[2], shape[3]] = node.out
    return found


def _logits(graph: Graph) -> set[Value]:
    """The outputs and what they are resized from."""
    found = set()
    for value in graph.output_values():
        found.add(value)
        while value.producer is not None and value.producer.op in _RESIZING:
            value = next(iter(value.producer.input_values()))
            found.add(value)
    return found


def automatic_pairs(
    student: Graph, teacher: Graph, input_shape: tuple[int, ...], logits: Callable[[Any], Any] | None = None
) -> list[tuple[str, str]]:
    """Nodes of student and teacher that end their stages of one resolution, the finest first; see `stages`.

    Raises:
        UserError: they have no resolution in common.
    """
    ours, theirs = (stages(graph, input_shape, logits) for graph in (student, teacher))
    both = sorted(set(ours) & set(theirs), reverse=True)
    if not both:
        raise UserError(
            f"Student and teacher have no resolution in common ({sorted(ours)} and {sorted(theirs)}).",
            "Name the layers to compare.",
        )
    return [(_node(ours[size]), _node(theirs[size])) for size in both]


def _node(value: Value) -> str:
    assert value.producer is not None
    return value.producer.name

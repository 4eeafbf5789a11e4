"""Cut a graph into blocks that are reconstructed one after the other (BRECQ, Li et al. 2021, section 3.2).

The nodes in their order are cut where the fewest activations are alive, so that a residual block, an inverted
residual or an attention ends where its branches have met, and a block holds at most `MOST_LAYERS` layers with weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from paddleseg_slim.graph import Graph, Node, Value
from paddleseg_slim.graph.host import host_nodes

MOST_LAYERS = 4


@dataclass(frozen=True)
class Block:
    """A run of nodes.

    Attributes:
        layers: names of its nodes with weights that are looked for.
        inputs: names of the activations that it reads and does not make.
        outputs: names of the activations that it makes and that are read behind it.
        alive: names of the activations that are read behind it, made in it or before.
    """

    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alive: tuple[str, ...]


def find_blocks(graph: Graph, layers: Collection[str], most: int = MOST_LAYERS) -> list[Block]:
    """Cut ``graph``.

    Args:
        graph: float, in eval mode.
        layers: names of the nodes with weights to share out; each comes into exactly one block.
        most: how many of them a block may have.

    Returns:
        The blocks in order; the last one ends with the graph.
    """
    walk = _Walk(graph)
    blocks: list[Block] = []
    start, total = 0, len(walk.nodes)
    while start < total:
        end = _best_end(walk, layers, start, most)
        blocks.append(walk.block(start, end, layers))
        start = end
    return blocks


def _best_end(walk: _Walk, layers: Collection[str], start: int, most: int) -> int:
    """Where the block that begins at ``start`` ends: behind 1 to ``most`` layers, with the fewest values alive."""
    count, best, least = 0, len(walk.nodes), None
    for place in range(start, len(walk.nodes)):
        count += walk.nodes[place].name in layers
        if count > most:
            return best
        width = len(walk.alive(place + 1))
        if count and (least is None or width <= least):
            best, least = place + 1, width
    return len(walk.nodes)


class _Walk:
    """The nodes that compute activations, in order, and how long each activation is needed."""

    def __init__(self, graph: Graph) -> None:
        self._host = {value for node in host_nodes(graph) for value in node.output_values()}
        self._fixed = set(graph.parameters.values())
        for node in graph.nodes:
            inputs = node.input_values()
            if inputs and all(value in self._fixed for value in inputs):
                self._fixed.update(node.output_values())
        self.nodes = [
            node
            for node in graph.nodes
            if not any(value in self._host or value in self._fixed for value in node.output_values())
        ]
        self._made = dict.fromkeys(graph.inputs, -1)
        self._last: dict[Value, int] = {}
        for place, node in enumerate(self.nodes):
            self._made.update(dict.fromkeys(node.output_values(), place))
            for value in self.reads(node):
                self._last[value] = place
        for value in graph.output_values():
            self._last[value] = len(self.nodes)

    def reads(self, node: Node) -> list[Value]:
        """Activations that a node needs, for their shape alone too."""
        found: dict[Value, None] = {}
        waiting = node.input_values()
        while waiting:
            value = waiting.pop()
            if value in self._host:
                waiting += value.producer.input_values() if value.producer is not None else []
            elif value not in self._fixed:
                found[value] = None
        return list(found)

    def alive(self, place: int) -> list[Value]:
        """Activations made before ``place`` and read at it or later."""
        return [value for value, made in self._made.items() if made < place <= self._last.get(value, -1)]

    def block(self, start: int, end: int, layers: Collection[str]) -> Block:
        nodes = self.nodes[start:end]
        inputs = {value.name: None for node in nodes for value in self.reads(node) if self._made[value] < start}
        alive = self.alive(end) if end < len(self.nodes) else [v for v, last in self._last.items() if last >= end]
        return Block(
            tuple(node.name for node in nodes if node.name in layers),
            tuple(inputs),
            tuple(value.name for value in alive if start <= self._made[value] < end),
            tuple(value.name for value in alive),
        )

"""Channel shuffle: channels change places in a fixed order, and each may go by itself.

A shuffle is written as a reshape into blocks, a transpose of the blocks, and a reshape back (Zhang et al., 2018,
ShuffleNet, figure 2). As such it needs equally many channels in every block. Where pruning leaves blocks unequal, the
three ops become one ``gather`` of the channels that stay, in the order in which the shuffle would have put them.
"""

from __future__ import annotations

import numpy as np

from paddleseg_slim.graph.host import CONSTANT_OPS
from paddleseg_slim.graph.ir import Graph, Node, Value
from paddleseg_slim.prune.ids import FIXED, Factor
from paddleseg_slim.prune.walk import RULES, Change, Keep, Walk


def shuffle_behind(walk: Walk, node: Node) -> list[Node]:
    """The reshape ``node``, the transpose and the reshape behind it when together they shuffle channels; else none."""
    chain = [node]
    for op in ("reshape", "transpose", "reshape"):
        user = walk.only_user(chain[-1].out)
        if chain[-1].op != op or (user is None and len(chain) < 3):
            return []
        chain += [user] if user is not None else []
    before, blocks, after = (walk.shape(v) for v in (node.value("x"), node.out, chain[2].out))
    perm = [int(p) % len(blocks) for p in chain[1].attrs["perm"]]
    labels = walk.of(node.value("x"))
    fits = before == after and len(blocks) == len(before) + 1 and blocks[:1] + blocks[3:] == before[:1] + before[2:]
    swaps = perm == [0, 2, 1, *range(3, len(blocks))]
    return chain[:3] if fits and swaps and len(labels) == 1 and labels[0].axes == (1,) else []


def to_gather(block: np.ndarray, axis: int, source: str, before: Node | None = None) -> Change:
    """An edit that turns the last node of a shuffle into a ``gather`` where its blocks came to be unequal.

    Args:
        block: ids ``[blocks, channels of a block]`` in front of the shuffle.
        axis: of the channels.
        source: name of the value that is shuffled.
        before: the node in front of the last one, where the shuffle is more than one.
    """
    name = before.name if before is not None else None

    def change(graph: Graph, node: Node, keep: Keep) -> None:
        stays = keep(block)
        if stays.any(axis=1).all() and (stays == stays.any(axis=0)).all():
            return
        place = (np.cumsum(stays) - 1).reshape(stays.shape)
        x = graph.value(source)
        index = index_node(graph, node, place.T[stays.T])
        node.op, node.inputs, node.attrs = "gather", {"x": x, "index": index}, {"axis": axis}
        graph.touch()
        if name is not None:
            _drop(graph, graph.node(name))

    return change


def _drop(graph: Graph, node: Node) -> None:
    """Take out a node that nobody reads, and what was made for it alone."""
    kept = set(graph.kept_values())
    if any(graph.users(value) or value in kept for value in node.output_values()):
        return
    graph.nodes.remove(node)
    graph.touch()
    for value in dict.fromkeys(node.input_values()):
        if value.producer is not None and value.producer in graph.nodes:
            _drop(graph, value.producer)


def index_node(graph: Graph, node: Node, index: np.ndarray) -> Value:
    """A constant of these integers, in front of ``node``."""
    attrs = {"shape": [len(index)], "dtype": "int64", "values": [int(i) for i in index]}
    own = Node(graph.fresh_name(f"{node.name}/index"), "assign_value", {}, attrs)
    own.outputs = {"out": Value(own.name, "int64", (len(index),), own)}
    graph.nodes.insert(graph.nodes.index(node), own)
    graph.touch()
    return own.out


@RULES.register("gather", "index_select")
def gather(walk: Walk, node: Node) -> None:
    """Positions of one axis are picked by number: where the numbers are constant, channels change places."""
    x = node.value("x")
    axes = walk.integers(node, "axis") or [0]
    axis = axes[0] % len(walk.shape(x))
    same_rank = len(walk.shape(node.out)) == len(walk.shape(x))
    given = node.inputs.get("index")
    maker = given.producer if isinstance(given, Value) and len(walk.shape(given)) == 1 else None
    index = walk.integers(node, "index") if maker is not None and maker.op in CONSTANT_OPS else None
    picked = tuple(f for f in walk.of(x) if axis in f.axes)
    rest = tuple(f for f in walk.of(x) if axis not in f.axes)
    if not same_rank:
        walk.pin((*picked, *rest), f"{node.name} ({node.op}) changes the number of axes")
        walk.set(node.out, FIXED)
    elif index is None or not picked or len(picked[0].axes) > 1:
        walk.pin(picked, f"{node.name} ({node.op}) picks them by number")
        walk.set(node.out, rest)
    else:
        ids, order = picked[0].ids, np.array(index) % walk.shape(x)[axis]
        walk.set(node.out, (*rest, Factor((axis,), ids[order])))
        walk.edit(node, _renumbered(ids, order))


def _renumbered(ids: np.ndarray, order: np.ndarray) -> Change:
    def change(graph: Graph, node: Node, keep: Keep) -> None:
        stays = keep(ids)
        place = np.cumsum(stays) - 1
        old = node.value("index").producer
        node.inputs["index"] = index_node(graph, node, place[order[stays[order]]])
        graph.touch()
        if old is not None:
            _drop(graph, old)

    return change

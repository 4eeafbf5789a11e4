"""A picture of a graph that a person can look at: SVG, chains of nodes in one box, from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from paddleseg_slim.graph.cost import Cost, NodeCost
from paddleseg_slim.graph.ir import Graph, Node, Value

_WIDTH, _LANE, _GAP, _LINE, _ROW_GAP = 330, 4, 22, 16, 36
_LETTERS = 50
"""Letters that fit into a line of a box."""

_COLOURS = (
    ("conv2d_transpose", "#d8c3e8"),
    ("depthwise", "#cfe3f5"),
    ("conv", "#a9cdf0"),
    ("matmul", "#f5d29a"),
    ("pool", "#c9e6c1"),
    ("interp", "#f3b9b0"),
    ("concat", "#f7ecae"),
    ("add", "#f7ecae"),
)
_FOLLOWERS = frozenset(
    {"add", "batch_norm", "relu", "relu6", "sigmoid", "silu", "swish", "hardswish", "leaky_relu", "gelu", "scale",
     "dropout", "softmax", "prelu", "multiply"}
)  # fmt: skip
"""Ops that stand in the line of the op before them."""


@dataclass(eq=False)
class _Box:
    """Some nodes, an input of the graph, or (neither) the place where a long edge passes a row."""

    nodes: list[Node]
    input: Value | None = None
    lines: list[str] = field(default_factory=list)
    above: list[_Box] = field(default_factory=list)
    row: int = 0
    x: float = 0.0

    @property
    def width(self) -> int:
        return _WIDTH if self.lines else _LANE

    @property
    def height(self) -> int:
        return _LINE * len(self.lines) + 10 if self.lines else 0


def svg(graph: Graph, costs: Cost) -> str:
    """Draw ``graph``.

    Args:
        graph: what is drawn; integers computed from shapes and what is computed from parameters are left out.
        costs: of this graph: the nodes that it lists are drawn, with shapes and multiply-accumulates.
    """
    known = {node.name: node for node in costs.nodes}
    boxes = _boxes(graph, known)
    for box in boxes:
        box.lines = _texts(box, graph, known)
    rows = _rows(boxes)
    _place(rows)
    tops, bottom = [], _GAP
    for row in rows:
        tops.append(bottom)
        bottom += max(box.height for box in row) + _ROW_GAP
    everything = [box for row in rows for box in row]
    left = min(box.x - box.width / 2 for box in everything) - _GAP
    width = max(box.x + box.width / 2 for box in everything) + _GAP - left
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} 0 {width:.0f} {bottom}" width="{width:.0f}" '
        f'height="{bottom}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
        '<path d="M0 0 L7 3 L0 6" fill="#777"/></marker></defs>',
        f'<rect x="{left:.0f}" width="{width:.0f}" height="{bottom}" fill="white"/>',
    ]
    parts += [_edge(source, box, tops) for box in everything for source in box.above]
    parts += [_draw(box, tops[box.row]) for box in everything if box.lines]
    return "\n".join([*parts, "</svg>\n"])


def _boxes(graph: Graph, known: dict[str, NodeCost]) -> list[_Box]:
    """Join a node to the box of the node before it when nothing else comes in or goes out between them."""
    boxes = [_Box([], value) for value in graph.inputs]
    owner: dict[Value, _Box] = dict(zip(graph.inputs, boxes))
    for node in graph.nodes:
        sources = [value for value in node.input_values() if value in owner]
        if node.name not in known or (not sources and graph.inputs):
            continue
        box = owner[sources[0]] if len(sources) == 1 else None
        drawn = [user for value in sources for user in graph.users(value) if user.name in known]
        if box is None or len(drawn) != 1 or not box.nodes or box.nodes[-1] is not sources[0].producer:
            box = _Box([], above=list(dict.fromkeys(owner[value] for value in sources)))
            boxes.append(box)
        box.nodes.append(node)
        owner.update((value, box) for value in node.output_values())
    return boxes


def _rows(boxes: list[_Box]) -> list[list[_Box]]:
    """Boxes below all that they read; an edge over several rows passes each in a place of its own."""
    for box in boxes:
        box.row = 1 + max((source.row for source in box.above), default=-1)
    rows: list[list[_Box]] = [[] for _ in range(1 + max(box.row for box in boxes))]
    for box in boxes:
        rows[box.row].append(box)
        for index, source in enumerate(box.above):
            for row in range(source.row + 1, box.row):
                source = _Box([], above=[source], row=row)
                rows[row].append(source)
            box.above[index] = source
    return rows


def _place(rows: list[list[_Box]]) -> None:
    """Each box below the middle of what it reads, as near as there is room: isotonic regression, row by row."""
    for row in rows:
        wanted = {box: sum(source.x for source in box.above) / max(1, len(box.above)) for box in row}
        row.sort(key=lambda box: wanted[box])
        offsets, offset = [], 0.0  # from the first box, when all stand close together
        for box, before in zip(row, [row[0], *row]):
            offset += 0 if box is row[0] else (before.width + box.width) / 2 + _GAP
            offsets.append(offset)
        groups: list[list[float]] = []  # boxes that stand close together: what each wants for the first one
        for box, offset in zip(row, offsets):
            groups.append([wanted[box] - offset])
            while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
                groups[-2:] = [groups[-2] + groups[-1]]
        starts = [_mean(group) for group in groups for _ in group]
        for box, start, offset in zip(row, starts, offsets):
            box.x = start + offset


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _edge(source: _Box, box: _Box, tops: list[int]) -> str:
    """A curve in the gap between two rows, and beside the boxes of the upper one where the edge only passes it."""
    x1, x2, y1, y2 = source.x, box.x, tops[source.row] + source.height, tops[box.row]
    start = tops[box.row] - _ROW_GAP
    half = (start + y2) / 2
    tip = ' marker-end="url(#tip)"' if box.lines else ""
    path = f"M{x1:.0f} {y1} L{x1:.0f} {start} C{x1:.0f} {half:.0f} {x2:.0f} {half:.0f} {x2:.0f} {y2}"
    return f'<path d="{path}" fill="none" stroke="#777"{tip}/>'


def _texts(box: _Box, graph: Graph, known: dict[str, NodeCost]) -> list[str]:
    """Name; a line an op with what follows it; shape and multiply-accumulates of the whole."""
    if box.input is not None:
        return [f"input {box.input.name}"]
    lines: list[str] = []
    for node in box.nodes:
        text = _describe(node, graph)
        if lines and node.op in _FOLLOWERS and len(lines[-1]) + len(text) + 2 <= _LETTERS:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    macs = sum(known[node.name].macs for node in box.nodes)
    shape = "x".join(map(str, known[box.nodes[-1].name].shape))
    parts = [shape, f"{macs / 1e6:,.1f} M MACs" if macs else "", "output" if graph.is_output(box.nodes[-1].out) else ""]
    name = box.nodes[0].name
    name = name if len(name) <= _LETTERS - 6 else "…" + name[7 - _LETTERS :]
    return [name, *lines, "  ·  ".join(part for part in parts if part)]


def _describe(node: Node, graph: Graph) -> str:
    """An op, with kernel, channels and stride of a convolution."""
    weight = node.inputs.get("filter")
    if not isinstance(weight, Value) or len(weight.shape) != 4:
        bias = node.op == "add" and any(_is_stored(value, graph) for value in node.input_values())
        return "bias" if bias else node.op
    strides = node.attrs.get("strides", [1])
    size = "x".join(map(str, weight.shape[2:]))
    stride = f" /{strides[0]}" if set(strides) != {1} else ""
    axis = 1 if "transpose" in node.op else 0
    groups = int(node.attrs.get("groups", 1)) if axis else 1
    return f"{node.op} {size}{stride} → {weight.shape[axis] * groups}"


def _is_stored(value: Value, graph: Graph) -> bool:
    if value.producer is not None and value.producer.op == "reshape":
        value = value.producer.value("x")
    return graph.parameter_name(value) is not None


def _draw(box: _Box, top: int) -> str:
    left = box.x - _WIDTH / 2
    first = box.nodes[0].op if box.nodes else ""
    colour = next((colour for mark, colour in _COLOURS if mark in first), "#eeeeee")
    names = ", ".join(node.name for node in box.nodes) or box.lines[0]
    texts = []
    for index, line in enumerate(box.lines):
        style = ' font-weight="bold"' if index == 0 else ' fill="#555"' if index == len(box.lines) - 1 else ""
        texts.append(f'<text x="{left + 8:.0f}" y="{top + _LINE * (index + 1)}"{style}>{escape(line)}</text>')
    frame = f'<rect x="{left:.0f}" y="{top}" width="{_WIDTH}" height="{box.height}" rx="5" fill="{colour}"/>'
    return "\n".join([f"<g>{frame}", *texts, f"<title>{escape(names)}</title></g>"])

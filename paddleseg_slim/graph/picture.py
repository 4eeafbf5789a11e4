"""A picture of a graph that a person can look at: SVG, chains of nodes in one box, from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from paddleseg_slim.graph.cost import Cost, NodeCost
from paddleseg_slim.graph.ir import Graph, Node, Value

_WIDTH, _GAP, _LINE, _ROW_GAP = 230, 24, 15, 34
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


@dataclass(eq=False)
class _Box:
    nodes: list[Node]
    above: list[_Box] = field(default_factory=list)
    row: int = 0
    column: float = 0.0

    @property
    def height(self) -> int:
        return _LINE * (len(self.nodes) + 2) + 8


def svg(graph: Graph, costs: Cost) -> str:
    """Draw ``graph``.

    Args:
        graph: what is drawn; integers computed from shapes and what is computed from parameters are left out.
        costs: of this graph: the nodes that it lists are drawn, with shapes and multiply-accumulates.
    """
    known = {node.name: node for node in costs.nodes}
    boxes = _boxes(graph, known)
    rows = _rows(boxes)
    tops, bottom = [], _GAP
    for row in rows:
        tops.append(bottom)
        bottom += max(box.height for box in row) + _ROW_GAP
    for row in rows:
        for index, box in enumerate(row):
            box.column = index - (len(row) - 1) / 2
    widest = max(len(row) for row in rows)
    width = widest * (_WIDTH + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" height="{bottom}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{bottom}" fill="white"/>',
    ]
    for box in boxes:
        parts += [_edge(source, box, tops, width / 2) for source in box.above]
    parts += [_draw(box, tops[box.row], width / 2, known) for box in boxes]
    return "\n".join([*parts, "</svg>\n"])


def _boxes(graph: Graph, known: dict[str, NodeCost]) -> list[_Box]:
    """Join a node to the box of the node before it when nothing else comes in or goes out between them."""
    owner: dict[Value, _Box] = {}
    boxes: list[_Box] = []
    for node in graph.nodes:
        if node.name not in known:
            continue
        sources = [value for value in node.input_values() if value in owner]
        if not sources and graph.inputs and not any(value in graph.inputs for value in node.input_values()):
            continue
        box = owner[sources[0]] if len(sources) == 1 else None
        drawn = [user for value in sources for user in graph.users(value) if user.name in known]
        if box is None or len(drawn) != 1 or box.nodes[-1] is not sources[0].producer:
            box = _Box([], list(dict.fromkeys(owner[value] for value in sources)))
            boxes.append(box)
        box.nodes.append(node)
        owner.update((value, box) for value in node.output_values())
    return boxes


def _rows(boxes: list[_Box]) -> list[list[_Box]]:
    rows: list[list[_Box]] = []
    for box in boxes:
        box.row = 1 + max((source.row for source in box.above), default=-1)
        while len(rows) <= box.row:
            rows.append([])
        rows[box.row].append(box)
    for upper, row in zip(rows, rows[1:]):  # fewer crossings: below the middle of what feeds it
        place = {box: index for index, box in enumerate(upper)}
        row.sort(key=lambda box: sum(place.get(s, 0) for s in box.above) / max(1, len(box.above)))
    return rows


def _left(box: _Box, middle: float) -> float:
    return middle + box.column * (_WIDTH + _GAP) - _WIDTH / 2


def _edge(source: _Box, box: _Box, tops: list[int], middle: float) -> str:
    x1, y1 = _left(source, middle) + _WIDTH / 2, tops[source.row] + source.height
    x2, y2 = _left(box, middle) + _WIDTH / 2, tops[box.row]
    half = (y1 + y2) / 2
    return (
        f'<path d="M{x1:.0f} {y1} C{x1:.0f} {half:.0f} {x2:.0f} {half:.0f} {x2:.0f} {y2}" fill="none" stroke="#777"/>'
    )


def _draw(box: _Box, top: int, middle: float, known: dict[str, NodeCost]) -> str:
    left, first = _left(box, middle), box.nodes[0]
    colour = next((colour for mark, colour in _COLOURS if mark in first.op), "#eeeeee")
    macs = sum(known[node.name].macs for node in box.nodes)
    shape = "x".join(map(str, known[box.nodes[-1].name].shape))
    name = first.name if len(first.name) <= 36 else "…" + first.name[-35:]
    lines = [f'<tspan font-weight="bold">{escape(name)}</tspan>', *(escape(node.op) for node in box.nodes)]
    lines.append(escape(shape + (f"   {macs / 1e6:.1f} M" if macs else "")))
    texts = [
        f'<text x="{left + 8:.0f}" y="{top + _LINE * (index + 1)}">{line}</text>' for index, line in enumerate(lines)
    ]
    frame = f'<rect x="{left:.0f}" y="{top}" width="{_WIDTH}" height="{box.height}" rx="5" fill="{colour}"/>'
    return "\n".join([f"<g>{frame}", *texts, f"<title>{escape(', '.join(n.name for n in box.nodes))}</title></g>"])

"""Print a model as a table of nodes with shapes, parameters and multiply-accumulates, and draw it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, groups, setup
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.cli.sizes import Size
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.graph.cost import Cost

HELP = "print a model node by node with shapes, parameters and MACs, and draw it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model by config, by a saved folder or file, or by its name in the zoo."""
    groups.add_model(parser)
    parser.add_argument("--train", action="store_true", help="the graph of train mode, with auxiliary heads")
    parser.add_argument("--svg", metavar="FILE", help="also draw the graph as SVG")
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Print; see `add_arguments`."""
    if (args.model is None) == (args.config is None):
        raise UserError("Give a model or a --config, one of them.", "paddleseg-slim inspect fast_scnn")
    setup.start(args)
    from rich.console import Console

    from paddleseg_slim.files import write_json, write_text
    from paddleseg_slim.graph import cost
    from paddleseg_slim.graph.cost import Cost
    from paddleseg_slim.graph.picture import svg

    layer, size = groups.open_model(args)
    graph = layer.train_graph if args.train else layer.eval_graph
    costs = cost(graph, [_shape(value.shape, size) for value in graph.inputs])
    _print(Console(), layer, costs, size)
    outputs = graph.output_values()
    if len(outputs) > 1:
        needed = {node.name for node in graph.ancestors(outputs[:1])}
        first = Cost(tuple(node for node in costs.nodes if node.name in needed))
        Console().print(f"The first output alone, which a segmentation model is exported with: {_totals(first, size)}.")
    if args.svg:
        write_text(args.svg, svg(graph, costs))
    if args.json:
        write_json(args.json, describe(costs, size))
    return 0


def _shape(shape: tuple[int, ...], size: Size) -> tuple[int, ...]:
    """One sample of ``size`` (height, width) where axes are dynamic."""
    spatial = len(shape) - 2
    return tuple(
        known if known != -1 else 1 if axis < max(spatial, 1) else int(size[axis - spatial])
        for axis, known in enumerate(shape)
    )


def describe(costs: Cost, size: Size) -> dict[str, Any]:
    """Costs as plain data, and the height and width that they are for."""
    totals = {"macs": costs.macs, "parameters": costs.parameters, "activation_bytes": costs.activation_bytes}
    return {"size": list(size), **totals, "nodes": [{**vars(node), "shape": list(node.shape)} for node in costs.nodes]}


def _print(console: Any, layer: GraphLayer, costs: Cost, size: Size) -> None:
    from rich.table import Table

    from paddleseg_slim.cli import history

    table = Table(title=repr(layer))
    table.add_column("node", overflow="fold")
    for name, justify in (("op", "left"), ("output", "left"), ("parameters", "right"), ("MACs", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for node in costs.nodes:
        parameters = f"{node.parameters:,}" if node.parameters else ""
        macs = f"{node.macs / 1e6:,.2f} M" if node.macs else ""
        table.add_row(node.name, node.op, "x".join(map(str, node.shape)), parameters, macs)
    console.print(table)
    console.print(f"{_totals(costs, size)}, {costs.activation_bytes / 2**20:.1f} MiB of activations.")
    for line in history.lines(layer):
        console.print(f"Done to it: {line}.", highlight=False, markup=False)


def _totals(costs: Cost, size: Size) -> str:
    return groups.totals(costs.macs, size, costs.parameters)

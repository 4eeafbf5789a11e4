"""Print the channel groups of a model: what can be pruned, what each group costs, and why the rest has to stay."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, setup, sizes
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.prune.channels import ChannelGroups

HELP = "print the channel groups of a model, and why the rest cannot be pruned"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, and what to print of it."""
    add_model(parser)
    parser.add_argument("--members", action="store_true", help="list every parameter axis of every group")
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    arguments.add_device(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """A model by config, by a saved folder or file, or by its name in the zoo; and the size to count costs at."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="saved model (folder or file), or a name of the zoo")
    parser.add_argument("--config", metavar="FILE", help="a config whose model is meant")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of the config")
    parser.add_argument("--input_shape", nargs=2, type=int, default=(), metavar=("H", "W"),
                        help="size to count costs at; default: the config's export.input_shape, or what a saved model "
                        "or its deploy.yaml says, else 512 512")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print; see `add_arguments`."""
    if (args.model is None) == (args.config is None):
        raise UserError("Give a model or a --config, one of them.", "paddleseg-slim groups fast_scnn")
    setup.start(args)
    from rich.console import Console

    from paddleseg_slim.files import write_json
    from paddleseg_slim.prune.channels import find_groups

    layer, size = open_model(args)
    groups = find_groups(layer, size)
    console = Console()
    _print_groups(console, groups, args.members)
    _print_pinned(console, groups, size)
    if args.json:
        write_json(args.json, {"size": list(size), **describe(groups)})
    return 0


def open_model(args: argparse.Namespace) -> tuple[GraphLayer, sizes.Size]:
    """The model that the arguments of `add_model` name, as a graph, and the size to count its costs at."""
    from pathlib import Path

    from paddle.static import InputSpec

    from paddleseg_slim import models  # noqa: F401  (registers them)
    from paddleseg_slim.graph import capture, load
    from paddleseg_slim.models import zoo

    arguments.check_shape(args.input_shape)
    if args.config:
        from paddleseg_slim import config as configs
        from paddleseg_slim.tasks import build_task

        config = configs.load_config(args.config, args.opts)
        task = build_task(config)
        size = sizes.of_config(args.input_shape, config, task)
        return capture(task.build_model(), task.input_spec(), verify=False, fixed_size=size), size
    if args.model in zoo.ZOO:
        spec = [InputSpec([None, 3, None, None], "float32", "x")]
        size = sizes.first_of(args.input_shape)
        return capture(zoo.build(args.model, 19), spec, verify=False, fixed_size=size), size
    if not Path(args.model).exists():
        raise UserError(f"{args.model} is neither a saved model nor in the zoo.", f"The zoo has: {', '.join(zoo.ZOO)}.")
    layer = load(args.model)
    return layer, sizes.of_saved(args.input_shape, layer, Path(args.model))


def totals(macs: float, size: sizes.Size, parameters: float) -> str:
    """What a model costs, at which size, in one phrase."""
    return f"{macs / 1e9:.3f} GMACs at {size[0]}x{size[1]}, {parameters / 1e6:.3f} M parameters"


def describe(groups: ChannelGroups) -> dict[str, Any]:
    """Groups and layers as plain data."""
    shares = _macs_removed_by_half(groups)
    return {
        "groups": [
            {
                "name": g.name,
                "width": g.width,
                "layers": list(g.layers),
                "macs_share_of_half": shares[i],
                "members": [{"parameter": m.parameter, "axis": m.axis, "writes": m.writes} for m in g.members],
            }
            for i, g in enumerate(groups.groups)
        ],
        "layers": [vars(layer) for layer in groups.layers()],
        "unknown_ops": groups.unknown,
        "macs": int(groups.macs(groups.widths)),
        "parameters": int(groups.parameters(groups.widths)),
        "prunable_share": groups.prunable_share(),
    }


def _macs_removed_by_half(groups: ChannelGroups) -> list[float]:
    """Share of all multiply-accumulates that go when half of each group's channels go, the others untouched."""
    total = groups.macs(groups.widths)
    slope = groups.macs.slope(groups.widths)
    return [-float(groups.macs.change(slope, i, -g.width / 2)) / total for i, g in enumerate(groups.groups)]


def _print_groups(console: Any, groups: ChannelGroups, members: bool) -> None:
    from rich.table import Table

    shares = _macs_removed_by_half(groups)
    table = Table(title=f"{len(groups.groups)} channel groups")
    for name, justify in (("group", "left"), ("width", "right"), ("MACs of half", "right"), ("made by", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for group, share in zip(groups.groups, shares):
        layers = ", ".join(group.layers[:3]) + (f" and {len(group.layers) - 3} more" if len(group.layers) > 3 else "")
        table.add_row(group.name, str(group.width), f"{100 * share:.2f} %", layers)
        for member in group.members if members else ():
            table.add_row(f"  {member.parameter}", "", f"axis {member.axis}", "made here" if member.writes else "")
    console.print(table)


def _print_pinned(console: Any, groups: ChannelGroups, size: sizes.Size) -> None:
    from rich.table import Table

    rest = [layer for layer in groups.layers() if layer.prunable < layer.channels]
    table = Table(title="Layers with channels that stay")
    for name in ("layer", "op", "channels", "prunable", "why"):
        table.add_column(name, overflow="fold")
    for layer in rest:
        table.add_row(layer.node, layer.op, str(layer.channels), str(layer.prunable), layer.reason)
    if rest:
        console.print(table)
    for op, nodes in groups.unknown.items():
        console.print(f"No channel rule for the op {op!r}: {', '.join(nodes[:5])}")
    total, parameters = groups.macs(groups.widths), groups.parameters(groups.widths)
    console.print(f"{totals(total, size, parameters)}.")
    share = 100 * groups.prunable_share()
    console.print(f"{share:.2f} % of the convolutions' MACs are in convolutions whose output channels can be pruned.")

"""PaddleSlim's ``sen.pickle``, read without executing anything in it."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.ir import slot_values
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.curves import Curves, GroupCurve


class _Status:
    """Stands for ``paddleslim.dygraph.prune.filter_pruner.Status``: attributes only."""

    sensitivies: dict[str, Any]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("paddleslim.") and name == "Status":
            return _Status
        if (module, name) in (
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which sensitivities have no need of")


def is_pickle(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as a pickle does."""
    try:
        with open(path, "rb") as stream:
            return stream.read(1) == b"\x80"
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Give an existing --sensitivity_file.") from error


def read_sensitivities(path: str | os.PathLike[str]) -> dict[str, dict[float, float]]:
    """Parameter -> ratio -> relative loss, as PaddleSlim measured them.

    Raises:
        UserError: it is no such file, or holds more than plain data.
    """
    try:
        with open(path, "rb") as stream:
            content = _Unpickler(stream).load()
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise UserError(f"{path} is refused: {error}.", "Measure the sensitivities again.") from error
    table = content.sensitivies if isinstance(content, _Status) else content
    if isinstance(table, dict) and isinstance(table.get("sensitivies"), dict):
        table = table["sensitivies"]
    found: dict[str, dict[float, float]] = {}
    for name, losses in table.items() if isinstance(table, dict) else ():
        while isinstance(losses, dict) and losses and isinstance(next(iter(losses.values())), dict):
            losses = next(iter(losses.values()))  # nested by the pruned dimension
        if isinstance(losses, dict):
            found[str(name)] = {float(ratio): float(loss) for ratio, loss in losses.items()}
    if not found:
        raise UserError(f"{path} holds no sensitivities.", "Measure the sensitivities again.")
    for name, losses in found.items():
        if not all(0 <= ratio < 1 and math.isfinite(loss) for ratio, loss in losses.items()):
            raise UserError(f"{path} has {losses} of {name}.", "Measure the sensitivities again.")
    return found


def read_curves(path: str | os.PathLike[str], groups: ChannelGroups) -> Curves:
    """The curves of a ``sen.pickle`` for the groups of the same model.

    Names of the form ``conv2d_3.w_0`` are resolved by the order in which the model's convolutions stand; structured
    names are taken as they are. Groups that PaddleSlim did not measure get no curve.

    Raises:
        UserError: the file is no ``sen.pickle``, or no name fits.
    """
    convolutions = [
        v.name
        for node in groups.model.eval_graph.nodes
        if "conv2d" in node.op and "transpose" not in node.op
        for v in slot_values(node.inputs.get("filter"))
    ]
    numbered = {f"conv2d_{i}.w_0": name for i, name in enumerate(convolutions)}
    owner = {m.parameter: g for g in groups.groups for m in g.members if m.writes}
    table = {}
    for name, losses in read_sensitivities(path).items():
        group = owner.get(numbered.get(name, name))
        if group is None or group.name in table:
            continue
        kept = [max(1, round(group.width * (1 - ratio))) for ratio in sorted(losses)]
        values = [losses[ratio] for ratio in sorted(losses)]
        table[group.name] = GroupCurve(group.width, kept, values, [])
    if not table:
        raise UserError(f"No name in {path} is a layer of this model.", "Measure the sensitivities again.")
    return Curves("exact", Path(path).name, 1.0, 0, table)

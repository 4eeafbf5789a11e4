"""The height and width at which ``inspect`` and ``groups`` count the costs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.config import Config
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.tasks.base import Task

Size = tuple[int, int]


def of_config(given: Sequence[int], config: Config, task: Task) -> Size:
    """``given``, else ``export.input_shape`` of the config, else that of `FREE_SHAPE`.

    Raises:
        UserError: the shape of the config is malformed.
    """
    from paddleseg_slim.deploy.export import parse_shape

    configured = parse_shape(config.export.get("input_shape"), task.input_spec()[0].shape[1])
    return first_of(given, configured[2:])


def of_saved(given: Sequence[int], layer: GraphLayer, path: Path) -> Size:
    """The size that the graph fixes, else ``given``, else that of the ``deploy.yaml`` of the model, else the default.

    Args:
        given: height and width, or nothing.
        layer: the model.
        path: where it was saved: a description is looked for beside it, and for a folder ``graph`` above it.

    Raises:
        UserError: ``given`` is not the size of the graph, or the description is malformed.
    """
    own = spatial(layer.eval_graph.inputs[0].shape)
    if given and any(fixed not in (-1, asked) for fixed, asked in zip(own, given)):
        fixed = "x".join("?" if side < 0 else str(side) for side in own)
        raise UserError(f"--input_shape is {given[0]} {given[1]}, the model takes {fixed} only.", "Leave it out.")
    return first_of(own, given, () if given else _described(path))


def first_of(*choices: Sequence[int]) -> Size:
    """The first height and the first width that are known among ``choices``, else those of `FREE_SHAPE`."""
    from paddleseg_slim.deploy.description import FREE_SHAPE

    known = [choice for choice in (*choices, FREE_SHAPE[2:]) if len(choice) == 2]
    height, width = (next(side for side in sides if side > 0) for sides in zip(*known))
    return height, width


def spatial(shape: Sequence[int]) -> tuple[int, ...]:
    """Height and width of ``[N, C, H, W]``; nothing of a shape of another rank."""
    return tuple(shape[2:]) if len(shape) == 4 else ()


def _described(path: Path) -> tuple[int, ...]:
    from paddleseg_slim.deploy.description import find_description, read_deploy

    folder = path if path.is_dir() else path.parent
    places = [folder, folder.resolve().parent] if folder.resolve().name == "graph" else [folder]
    description = next(filter(None, map(find_description, places)), None)
    return spatial(read_deploy(description)[0].input_shape) if description else ()

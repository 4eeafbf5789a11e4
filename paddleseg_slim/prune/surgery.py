"""Remove channels for good: weights, statistics, attributes, optimizer state; on a copy that is tried before use."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.graph import GraphLayer, refresh_shapes
from paddleseg_slim.graph.shapes import sample_shapes
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.version import __version__

STEP = "prune"
"""Name of this step in the compression record."""


def cut(groups: ChannelGroups, kept: Mapping[str, Sequence[int] | np.ndarray], **settings: Any) -> GraphLayer:
    """A copy of the model in which the named groups keep only these channels; the model itself is not touched.

    Args:
        groups: of the model to prune.
        kept: group -> indices of the channels that stay.
        settings: plain data about how they were chosen, for the compression record.

    Raises:
        UserError: an unknown group, or one that would lose all its channels.
    """
    chosen = {name: _checked(groups, name, channels) for name, channels in kept.items()}
    alive = groups.keep(chosen)
    if alive.all():
        return copy.deepcopy(groups.model)
    return _apply(groups, alive, settings)


def _checked(groups: ChannelGroups, name: str, channels: Sequence[int] | np.ndarray) -> np.ndarray:
    if name not in groups.by_name:
        raise UserError(f"The model has no channel group {name!r}.", nearest(name, groups.by_name))
    width = groups.by_name[name].width
    indices = np.unique(np.asarray(channels, dtype=np.int64))
    if not indices.size or indices[0] < 0 or indices[-1] >= width:
        raise UserError(
            f"Group {name!r} has channels 0 to {width - 1}; asked to keep {indices.tolist()[:8]}.",
            "Keep at least one channel of every group.",
        )
    return indices


def _apply(groups: ChannelGroups, alive: np.ndarray, settings: Mapping[str, Any]) -> GraphLayer:
    model = copy.deepcopy(groups.model)
    kept: dict[str, dict[str, list[int]]] = {}
    for (name, axis), ids in groups.walk.axes.items():
        stay = alive[groups.components[ids]]
        if not stay.any():
            raise UserError(f"Axis {axis} of {name!r} would lose all its channels.", "Keep more channels.")
        if not stay.all():
            kept.setdefault(name, {})[str(axis)] = np.flatnonzero(stay).tolist()
    for name, axes in kept.items():
        array = model.tensor(name).numpy()
        for place, positions in axes.items():
            array = array.take(positions, axis=int(place))
        model.set_tensor(name, array)
    graphs = {"train": model.train_graph, "eval": model.eval_graph}
    for edit in groups.walk.edits:
        graph = graphs[edit.graph]
        edit.change(graph, graph.node(edit.node), lambda ids: alive[groups.components[ids]])
        graph.touch()
    for graph in model.graphs:
        graph.check()
        refresh_shapes(graph)
    model.record.append({"step": STEP, "version": __version__, **settings, "kept": kept})
    _try(model)
    return model


def _try(model: GraphLayer) -> None:
    """Run the pruned model once: a wrong cut must not get out."""
    mode = model.training
    model.eval()
    shapes = sample_shapes(model.eval_graph.inputs, 64, 1)
    inputs = [paddle.zeros(s, dtype=v.dtype) for s, v in zip(shapes, model.eval_graph.inputs)]
    with paddle.no_grad():
        model(*inputs)
    model.train() if mode else model.eval()


def replay(model: GraphLayer, entry: Mapping[str, Any]) -> GraphLayer:
    """Prune a fresh, unpruned model as the record entry ``entry`` says; its weights decide what the result computes.

    Raises:
        UserError: the model is not the one that the entry describes.
    """
    groups = find_groups(model)
    alive = np.ones(int(groups.components.max()) + 1, dtype=bool)
    for name, axes in entry["kept"].items():
        for axis, positions in axes.items():
            ids = groups.walk.axes.get((name, int(axis)))
            if ids is None or (positions and max(positions) >= len(ids)):
                raise UserError(
                    f"The record prunes axis {axis} of {name!r}, which this model does not have or cannot prune.",
                    "Give the model that the record was made for.",
                )
            gone = np.setdiff1d(np.arange(len(ids)), positions)
            alive[groups.components[ids[gone]]] = False
    settings = {key: value for key, value in entry.items() if key not in ("step", "version", "kept")}
    result = _apply(groups, alive, settings)
    if result.record[-1]["kept"] != dict(entry["kept"]):
        raise UserError(
            "The record does not fit the channel groups of this model.", "Give the model that the record was made for."
        )
    return result


def cut_optimizer_state(state: Mapping[str, Any], model: GraphLayer, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer for the pruned model: moments are cut as their parameters were.

    Args:
        state: ``optimizer.state_dict()`` of the unpruned model.
        model: the unpruned model.
        entry: the last entry of the pruned model's record.
    """
    result = dict(state)
    for name, axes in entry["kept"].items():
        tensor = model.tensor(name)
        for key, value in state.items():
            if key.startswith(f"{tensor.name}_") and tuple(getattr(value, "shape", ())) == tuple(tensor.shape):
                array = np.asarray(value)
                for axis, positions in axes.items():
                    array = array.take(positions, axis=int(axis))
                result[key] = paddle.to_tensor(array)
    return result

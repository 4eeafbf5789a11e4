"""How much each group matters when the layers behind it are refitted, as they are after pruning (`reconstruct`).

For every group and width, the readers of the group get the weights that make up best for what is missing
(`readers.Reader.without`); whoever else reads it sees it gated (`gates`). How far the model's predictions move is
measured: the mean Kullback-Leibler divergence from the untouched model's, over images and positions, without labels.
Only what depends on these layers runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import Value, extract, fix_size
from paddleseg_slim.graph.run import Plan
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.criteria import removal_order
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.gates import Gate, insert_gates
from paddleseg_slim.prune.readers import Reader
from paddleseg_slim.prune.running import Running, images_that_fit
from paddleseg_slim.prune.sensitivity import kept_at

REFIT_RATIOS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)

_TOGETHER = 8
"""Images that run at a time, at most."""


_Changed = dict[str, np.ndarray]
"""Parameter -> float32 array."""


def _refitted(groups: ChannelGroups, readers: Sequence[Reader], removed: np.ndarray) -> _Changed:
    """The parameters that change when these channels are gone and the readers make up for them."""
    table = {}
    for reader in readers:
        weight = reader.without(removed)
        table[reader.layer.weight] = reader.layer.weights(weight, np.float32)
        if reader.offset:
            old = groups.model.tensor(reader.offset[0]).numpy()
            moved = reader.offset_moved(weight).astype(np.float32)
            table[reader.offset[0]] = old + moved.reshape(old.shape)
    return table


class _Rest:
    """The part of a model that some parameters and gates change.

    Args:
        model: on the images, with gates.
        names: of the parameters.
        gates: that change.
        wanted: the logits.
    """

    def __init__(self, model: Running, names: Sequence[str], gates: Sequence[Gate], wanted: Value) -> None:
        graph = model.graph
        nodes = graph.dependents([*(graph.parameters[name] for name in names), *(gate.value for gate in gates)])
        made = {value for node in nodes for value in node.output_values()}
        self.reaches = wanted in made
        read = dict.fromkeys(value for node in nodes for value in node.input_values())
        self.given = [v for v in read if v not in made and graph.parameter_name(v) is None]
        self._model, self._gates, self._wanted = model, {gate.value.name: gate for gate in gates}, wanted

    def logits(self, changed: _Changed, alive: np.ndarray) -> Any:
        """The logits with these parameters, when these components stay."""
        part = extract(self._model.graph, self.given, [self._wanted])
        plan = Plan(part, part.output_values())
        table: dict[str, Any] = dict(self._model.model.tensors())
        table.update({name: paddle.to_tensor(array) for name, array in changed.items()})
        parameters: list[tuple[int, dict[str, Any], str]] = [(slot, table, name) for slot, name in plan.parameters]
        inputs = [
            paddle.to_tensor(self._gates[value.name].array(alive))
            if value.name in self._gates
            else self._model.value(self._model.graph.value(value.name))[0]
            for value in part.inputs
        ]
        with paddle.no_grad():
            return plan.run(inputs, parameters)[0]


@dataclass(frozen=True)
class _Point:
    """A group at a width.

    Attributes:
        changed: parameters of its readers.
        alive: which components stay.
    """

    changed: _Changed
    alive: np.ndarray


def _points(
    groups: ChannelGroups, name: str, readers: Sequence[Reader], order: np.ndarray, kept: Sequence[int]
) -> list[_Point]:
    points = []
    for left in kept:
        removed = order[: len(order) - left]
        points.append(
            _Point(_refitted(groups, readers, removed), groups.keep({name: np.sort(order[len(order) - left :])}))
        )
    return points


def refit_curves(
    groups: ChannelGroups,
    scores: Mapping[str, np.ndarray],
    readers: Mapping[str, Sequence[Reader]],
    images: Sequence[np.ndarray],
    *,
    ratios: Sequence[float] = REFIT_RATIOS,
    state: Path | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curves:
    """Measure the divergence of every group at some widths, its readers refitted.

    Args:
        groups: of the model.
        scores: group -> importance of its channels; groups that are missing are not measured.
        readers: of every group (`readers.readers_of`).
        images: float32 ``[1, 3, H, W]``, all of one size; as many at a time as memory is set aside for.
        ratios: parts of a group's channels that are removed.
        state: file in which what is done is kept meanwhile; removed at the end.
        fingerprint: what the result is valid for.
        progress: called with points done and all, a point on some images counting as one.

    Raises:
        UserError: ``state`` is of another analysis.
    """
    names = [group.name for group in groups.groups if group.name in scores]
    order = {name: removal_order(scores[name]) for name in names}
    kept = {name: kept_at(groups.by_name[name].width, ratios) for name in names}
    points = {name: _points(groups, name, readers[name], order[name], kept[name]) for name in names}
    made_up: dict[str, list[str]] = {}
    for name, several in readers.items():
        for reader in several:
            made_up.setdefault(reader.layer.node.name, []).append(name)
    size = min(_TOGETHER, images_that_fit(groups.model, images[0].shape))
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    stamp = hashlib.sha256(repr([fingerprint, list(ratios), names, size]).encode()).hexdigest()
    sums = _known(state, stamp)
    for number, few in enumerate(batches):
        batch = np.concatenate(few)
        part = fix_size(groups.model.eval_graph, [batch.shape])
        gated = insert_gates(groups, names, part=part, free=made_up)
        model = Running(groups.model, [batch], gated.graph, gated.feeds(groups.keep({})))
        logits = model.graph.outputs if groups.pick is None else groups.pick(model.graph.outputs)
        untouched = F.log_softmax(model.value(logits)[0], axis=1)
        changed = {name: list(points[name][0].changed) if points[name] else [] for name in names}
        rests = {name: _Rest(model, changed[name], gated.of(name), logits) for name in names}
        for place, name in enumerate(names):
            own = sums.setdefault(name, [])
            if len(own) <= number:
                rest = rests[name]
                own.append(
                    [
                        _divergence(untouched, rest.logits(p.changed, p.alive)) * len(batch) if rest.reaches else 0.0
                        for p in points[name]
                    ]
                )
                if state is not None:
                    write_json(state, {"stamp": stamp, "groups": sums})
            model.forget([value for later in names[place + 1 :] for value in rests[later].given])
            progress(number * len(names) + place + 1, len(batches) * len(names))
    curves = {
        name: GroupCurve(
            len(order[name]), kept[name], (np.sum(sums[name], axis=0) / len(images)).tolist(), order[name].tolist()
        )
        for name in names
    }
    if state is not None:
        state.unlink(missing_ok=True)
    return Curves("refit", "divergence", 1.0, len(images), curves, dict(fingerprint or {}))


def _divergence(untouched: Any, logits: Any) -> float:
    """Mean Kullback-Leibler divergence over images and positions, in nats."""
    divergence = (untouched.exp() * (untouched - F.log_softmax(logits, axis=1))).sum(axis=1).mean()
    return max(float(divergence), 0.0)


def _known(state: Path | None, stamp: str) -> dict[str, list[list[float]]]:
    if state is None or not state.is_file():
        return {}
    try:
        data = json.loads(state.read_text(encoding="utf-8"))
        known, groups = data["stamp"], data["groups"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{state} is damaged: {error}", "Delete it to measure again.") from error
    if known != stamp:
        raise UserError(
            f"{state} is of an analysis with other weights, data or settings.",
            "Delete it to measure again, or give another --save_dir.",
        )
    return dict(groups)

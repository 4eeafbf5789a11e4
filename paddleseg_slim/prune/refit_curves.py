"""How much each group matters when the layers behind it are refitted, as they are after pruning (`reconstruct`).

For every group and width, the readers of the group get the weights that make up best for what is missing
(`readers.Reader.without`), and how far the model's predictions move is measured: the mean Kullback-Leibler divergence
from the untouched model's, over images and positions, without labels. Only what depends on these layers runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import Value, extract
from paddleseg_slim.graph.run import Plan
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.readers import Reader
from paddleseg_slim.prune.running import Running, batches_of

REFIT_RATIOS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)


class _Rest:
    """The part of a model behind the readers of one group.

    Args:
        model: on the images.
        readers: of the group.
        wanted: the logits.
    """

    def __init__(self, model: Running, readers: Sequence[Reader], wanted: Value) -> None:
        graph = model.graph
        names = [r.layer.weight for r in readers] + [r.offset[0] for r in readers if r.offset]
        nodes = graph.dependents([graph.parameters[name] for name in names])
        made = {value for node in nodes for value in node.output_values()}
        self.reaches = wanted in made
        read = dict.fromkeys(value for node in nodes for value in node.input_values())
        self.given = [v for v in read if v not in made and graph.parameter_name(v) is None]
        self._model, self._readers, self._wanted = model, readers, wanted

    def logits(self, removed: np.ndarray) -> list[Any]:
        """The logits, one tensor a batch, when these channels are gone and the readers refitted."""
        table = dict(self._model.model.tensors())
        for reader in self._readers:
            weight = reader.without(removed)
            name = reader.layer.weight
            table[name] = paddle.to_tensor(reader.layer.weights(weight, np.float32))
            if reader.offset:
                old = table[reader.offset[0]]
                moved = reader.offset_moved(weight).astype(np.float32)
                table[reader.offset[0]] = old + paddle.to_tensor(moved).reshape(old.shape)
        part = extract(self._model.graph, self.given, [self._wanted])
        plan = Plan(part, part.output_values())
        parameters: list[tuple[int, dict[str, Any], str]] = [(slot, table, name) for slot, name in plan.parameters]
        inputs = [self._model.value(self._model.graph.value(value.name)) for value in part.inputs]
        with paddle.no_grad():
            return [plan.run(list(items), parameters)[0] for items in zip(*inputs)]


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
        scores: group -> importance of its channels; groups that are missing, or have no reader, are not measured.
        readers: of every group (`readers.readers_of`).
        images: float32 ``[1, 3, H, W]``, all of one size.
        ratios: parts of a group's channels that are removed.
        state: file in which the groups done are kept meanwhile; removed at the end.
        fingerprint: what the result is valid for.
        progress: called with groups done and all.

    Raises:
        UserError: ``state`` is of another analysis.
    """
    model = Running(groups.model, batches_of(images))
    outputs = model.graph.outputs if groups.pick is None else groups.pick(model.graph.outputs)
    untouched = [F.log_softmax(item, axis=1) for item in model.value(outputs)]
    names = [group.name for group in groups.groups if group.name in scores and readers[group.name]]
    rests = {name: _Rest(model, readers[name], outputs) for name in names}
    stamp = hashlib.sha256(repr([fingerprint, list(ratios), names]).encode()).hexdigest()
    done: dict[str, list[float]] = _known(state, stamp)
    curves = {}
    for number, name in enumerate(names):
        width, order = groups.by_name[name].width, np.argsort(scores[name], kind="stable")
        kept = sorted({max(1, round(width * (1 - ratio))) for ratio in ratios} - {width}, reverse=True)
        if name not in done:
            rest = rests[name]
            done[name] = [
                _divergence(untouched, rest.logits(order[: width - left])) if rest.reaches else 0.0 for left in kept
            ]
            if state is not None:
                write_json(state, {"stamp": stamp, "groups": done})
        curves[name] = GroupCurve(width, kept, done[name], order.tolist())
        model.forget([value for later in names[number + 1 :] for value in rests[later].given])
        progress(number + 1, len(names))
    if state is not None:
        state.unlink(missing_ok=True)
    return Curves("refit", "divergence", 1.0, len(images), curves, dict(fingerprint or {}))


def _divergence(untouched: Sequence[Any], logits: Sequence[Any]) -> float:
    """Mean Kullback-Leibler divergence over images and positions, in nats."""
    parts = [
        float((old.exp() * (old - F.log_softmax(new, axis=1))).sum(axis=1).mean())
        for old, new in zip(untouched, logits)
    ]
    return max(float(np.mean(parts)), 0.0)


def _known(state: Path | None, stamp: str) -> dict[str, list[float]]:
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

"""Distillation as an addition to the training loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.distill.taps import AUTOMATIC, Taps, automatic_pairs, find_values
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph import GraphLayer, infer_shapes
from paddleseg_slim.train.hooks import Hook

ADAPTERS = "distill_adapters"
PEER = "distill_peer"


@dataclass(frozen=True)
class Term:
    """One comparison of student and teacher.

    Attributes:
        loss: a layer of `distill.losses`.
        weight: factor on it.
        student: name of a tap, or two separated by a comma for a loss of pairs; empty: the logits; ``auto``: the
            stages of equal resolution (for a loss of pairs the first and the last of them); ``auto:N``: one of them.
        teacher: the same in the teacher; with ``auto`` it is left out.
        start: iteration from which it counts.
        ramp: iterations over which its weight grows from 0.

    Raises:
        UserError: the loss takes logits alone, or features alone, and is given the other.
    """

    loss: nn.Layer
    weight: float = 1.0
    student: str = ""
    teacher: str = ""
    start: int = 0
    ramp: int = 0

    def __post_init__(self) -> None:
        name = type(self.loss).__name__
        if self.student and getattr(self.loss, "needs_label", False):
            raise UserError(f"{name} compares logits with the labels at hand.", "Give it as the loss of the logits.")
        if not self.student and getattr(self.loss, "pairs", False):
            raise UserError(f"{name} compares places inside the models.", "Give it as a loss of features, with taps.")

    def at(self, step: int) -> float:
        """The weight at an iteration (from 1)."""
        if step <= self.start:
            return 0.0
        return self.weight * min(1.0, (step - self.start) / self.ramp) if self.ramp else self.weight


@dataclass(frozen=True)
class _Compared:
    """A term whose taps are found: positions in the lists of features, and an adapter's name for each."""

    term: Term
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    adapters: tuple[str, ...]


class Distiller(Hook):
    """The losses of a student against a teacher.

    The teacher runs without gradients, in evaluation mode. Where the channels of a pair differ, a 1x1 convolution
    (an adapter) maps the student's to the teacher's; it belongs to the student's parameters until `remove`, so it is
    trained, saved and resumed with them.

    Args:
        student: what is trained.
        teacher: what it learns from.
        terms: what is compared.
        logits: picks the logits ``[N, C, ...]`` from the outputs of either.
        input_shape: of a batch, ``[N, C, H, W]``.
        cache: folder for the teacher's outputs by image; None computes them anew each time.

    Raises:
        UserError: a tap is not found, pairs do not fit, or the teacher gives no logits.
    """

    def __init__(
        self,
        student: GraphLayer,
        teacher: GraphLayer,
        terms: Sequence[Term],
        logits: Callable[[Any], Any],
        input_shape: tuple[int, ...],
        cache: Path | None = None,
    ) -> None:
        if not terms:
            raise UserError("There is nothing to distil.", "Give a distill_loss, or a loss by flag.")
        self.student, self.teacher, self.logits, self.cache = student, teacher, logits, cache
        self.step = 0
        teacher.eval()
        for parameter in teacher.parameters():
            parameter.stop_gradient = True
        names, self._compared = _resolve(student, teacher, terms, input_shape, logits)
        self._shapes = [infer_shapes(graph, [input_shape]) for graph in (student.train_graph, teacher.eval_graph)]
        self._add_adapters(names)
        self.ours = Taps(student, names[0], training=True)
        self.theirs = Taps(teacher, names[1], training=False)

    def _add_adapters(self, names: tuple[list[str], list[str]]) -> None:
        """Add a 1x1 convolution for each pair of features whose channels differ, unless the loss takes them so."""
        graphs = (self.student.train_graph, self.teacher.eval_graph)
        widths = [
            [run.shape(find_values(graph, name)[0])[1] for name in own]
            for graph, run, own in zip(graphs, self._shapes, names)
        ]
        adapters = nn.LayerDict()
        compared = []
        for index, item in enumerate(self._compared):
            chosen = []
            for part, (s, t) in enumerate(zip(item.student, item.teacher)):
                key = ""
                if widths[0][s] != widths[1][t] and not getattr(item.term.loss, "any_channels", False):
                    key = f"{index}_{part}"
                    adapters[key] = nn.Conv2D(widths[0][s], widths[1][t], 1, bias_attr=False)
                chosen.append(key)
            compared.append(_Compared(item.term, item.student, item.teacher, tuple(chosen)))
        self._compared = compared
        if len(adapters):
            self.student.add_sublayer(ADAPTERS, adapters)

    def before_step(self, step: int) -> None:
        """Know the step, for the schedules of the weights."""
        self.step = step

    def extra_loss(self, model: Any, outputs: Any, batch: dict[str, Any]) -> Mapping[str, Any]:
        """``distill_loss_<n>`` for each term, weighted; `batch` gives the image to the teacher."""
        logits, features = self._teach(batch["img"])
        losses = {}
        for index, item in enumerate(self._compared):
            weight = item.term.at(self.step)
            if weight:
                value = self._term(item, outputs, logits, features, batch)
                losses[f"distill_loss_{index}"] = weight * value
        return losses

    def _term(self, item: _Compared, outputs: Any, logits: Any, features: Sequence[Any], batch: dict[str, Any]) -> Any:
        loss = item.term.loss
        if not item.student:
            ours = self.logits(outputs)
            if ours.shape[1] != logits.shape[1]:
                raise UserError(
                    f"The student has {ours.shape[1]} classes, the teacher {logits.shape[1]}.",
                    "Distil features, or train the teacher for the same classes.",
                )
            theirs = _sized(logits, ours)
            return loss(ours, theirs, batch["label"]) if getattr(loss, "needs_label", False) else loss(ours, theirs)
        adapters = self.student._sub_layers.get(ADAPTERS)
        pairs = []
        for s, t, key in zip(item.student, item.teacher, item.adapters):
            ours = adapters[key](self.ours.features[s]) if key else self.ours.features[s]
            pairs.append((ours, _sized(features[t], ours)))
        if getattr(loss, "pairs", False):
            return loss([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return sum((loss(*pair) for pair in pairs[1:]), loss(*pairs[0]))

    # ---- the teacher

    def _teach(self, images: Any) -> tuple[Any, list[Any]]:
        """The teacher's logits and features, without gradients."""
        with paddle.no_grad():
            if self.cache is None:
                return self._run_teacher(images)
            files = [self.cache / f"{_key(image)}.npz" for image in np.asarray(images)]
            if not all(path.is_file() for path in files):
                logits, features = self._run_teacher(images)
                _store(files, [np.asarray(value) for value in (logits, *features)])
                return logits, features
            arrays = [_read(path) for path in files]
            values = [paddle.to_tensor(np.stack(column)) for column in zip(*arrays)]
            return values[0], values[1:]

    def _run_teacher(self, images: Any) -> tuple[Any, list[Any]]:
        self.teacher.eval()
        logits = self.logits(self.teacher(images))
        if not paddle.is_floating_point(logits):
            raise UserError("The teacher gives classes, no logits.", "Export it with --output_op none.")
        return logits, list(self.theirs.features)

    def remove(self) -> None:
        """Leave the student as it was: no taps, no adapters."""
        self.ours.remove()
        self.theirs.remove()
        self.student._sub_layers.pop(ADAPTERS, None)


class Mutual(Hook):
    """Deep mutual learning (Zhang et al. 2018): peers that learn from the labels and from each other at once.

    Each of the ``K`` students adds to its loss the mean divergence from the others, whose outputs count as constants.
    The peers' parameters belong to the student's until `remove`, so that one optimizer trains all.

    Args:
        student: the model that is kept.
        peers: the others, one or more; trained in place.
        task_loss: ``task.loss``.
        logits: picks the logits of the outputs.
        divergence: a loss of logits, `losses.DMLLoss`.
        weight: factor on the divergences.
    """

    def __init__(
        self,
        student: nn.Layer,
        peers: Sequence[nn.Layer],
        task_loss: Callable[[Any, dict[str, Any]], Mapping[str, Any]],
        logits: Callable[[Any], Any],
        divergence: nn.Layer,
        weight: float = 1.0,
    ) -> None:
        self.student, self.peers, self.task_loss, self.logits = student, list(peers), task_loss, logits
        self.divergence, self.weight = divergence, weight
        student.add_sublayer(PEER, nn.LayerList(self.peers))

    def extra_loss(self, model: Any, outputs: Any, batch: dict[str, Any]) -> Mapping[str, Any]:
        """``peer_loss``, the peers' own losses, and ``mutual_loss``, all divergences."""
        others = [peer(batch["img"]) for peer in self.peers]
        logits = [self.logits(values) for values in (outputs, *others)]
        terms = []
        for i, ours in enumerate(logits):
            targets = [_sized(theirs.detach(), ours) for j, theirs in enumerate(logits) if j != i]
            terms += [self.divergence(ours, target) / len(targets) for target in targets]
        own = [self.task_loss(values, batch)["loss"] for values in others]
        return {"peer_loss": sum(own[1:], own[0]), "mutual_loss": self.weight * sum(terms[1:], terms[0])}

    def remove(self) -> None:
        """Take the peers out of the student."""
        self.student._sub_layers.pop(PEER, None)


def _resolve(
    student: GraphLayer, teacher: GraphLayer, terms: Sequence[Term], input_shape: tuple[int, ...], logits: Any
) -> tuple[tuple[list[str], list[str]], list[_Compared]]:
    """Names of the taps of both models, and the terms by positions in them."""
    names: tuple[list[str], list[str]] = ([], [])
    compared = []
    for term in terms:
        if not term.student:
            compared.append(_Compared(term, (), (), ()))
            continue
        pairs = _pairs(student, teacher, term, input_shape, logits)
        places = []
        for side, own in enumerate(zip(*pairs)):
            for name in own:
                if name not in names[side]:
                    names[side].append(name)
            places.append(tuple(names[side].index(name) for name in own))
        compared.append(_Compared(term, places[0], places[1], ()))
    return names, compared


def _pairs(
    student: GraphLayer, teacher: GraphLayer, term: Term, input_shape: tuple[int, ...], logits: Any
) -> list[tuple[str, str]]:
    """Nodes that a term compares: (student's, teacher's)."""
    if term.student.split(":")[0] == AUTOMATIC:
        found = automatic_pairs(student.train_graph, teacher.eval_graph, input_shape, logits)
        if ":" in term.student:
            return [(_nth(found, term.student)[0], _nth(found, term.teacher or term.student)[1])]
        return [found[0], found[-1]] if getattr(term.loss, "pairs", False) else found
    sides = [
        [
            value.producer.name
            for name in text.split(",")
            for value in find_values(graph, name.strip())
            if value.producer
        ]
        for graph, text in ((student.train_graph, term.student), (teacher.eval_graph, term.teacher or term.student))
    ]
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{term.student} are {len(sides[0])} places of the student, {term.teacher} {len(sides[1])} of the teacher.",
            "Name as many of one as of the other.",
        )
    if getattr(term.loss, "pairs", False) and len(sides[0]) != 2:
        raise UserError(f"{type(term.loss).__name__} needs two places of each model.", "Name them: FIRST,LAST.")
    return list(zip(*sides))


def _nth(pairs: Sequence[tuple[str, str]], text: str) -> tuple[str, str]:
    """The pair that ``auto:N`` names."""
    index = text.partition(":")[2]
    if not index.isdigit() or int(index) >= len(pairs):
        raise UserError(f"There is no stage {index}: the models share {len(pairs)}.", "Stages count from 0.")
    return pairs[int(index)]


def _sized(theirs: Any, ours: Any) -> Any:
    """The teacher's map at the student's size."""
    if theirs.ndim != 4 or theirs.shape[2:] == ours.shape[2:]:
        return theirs
    return F.interpolate(theirs, size=ours.shape[2:], mode="bilinear", align_corners=False)


def _key(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:32]


def _store(files: Sequence[Path], values: Sequence[np.ndarray]) -> None:
    for row, path in enumerate(files):
        with atomic_file(path) as temporary:
            np.savez(temporary.with_suffix(".npz"), *[value[row] for value in values])


def _read(path: Path) -> list[np.ndarray]:
    with np.load(path) as data:
        return [data[f"arr_{index}"] for index in range(len(data.files))]

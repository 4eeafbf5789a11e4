"""Importance from gradients: one forward and one backward pass an image give every channel of every group at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_slim.graph.run import Plan
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.criteria import removal_order
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.gates import Gate, insert_gates

TAYLOR_IMAGES = 24
_POINTS = 32


def gate_gradients(
    groups: ChannelGroups,
    images: Iterable[np.ndarray],
    outputs: Callable[[Any], Any],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    batch_size: int = 8,
    loss: Callable[[Any, int], Any] | None = None,
) -> dict[str, np.ndarray]:
    """Gradient of the loss with respect to a gate of one on every channel, for each image.

    By default the loss is the cross entropy to labels drawn from the model's own prediction, so no labels are needed
    and the mean square of the gradients is the Fisher information (Theis et al., 2018).

    Args:
        groups: of the model.
        images: float32 ``[1, 3, H, W]`` each.
        outputs: picks the logits ``[N, C, ...]`` from the model's outputs.
        seed: of the drawn labels.
        progress: called with the number of images done.
        batch_size: images run together, where the model allows a gate for each sample.
        loss: another one: of the logits of some images and the number of the first, summed over them.

    Returns:
        group -> float64 ``[images, width]``.
    """
    gated = insert_gates(groups)
    wanted = outputs(gated.graph.outputs)
    plan = Plan(gated.graph, [wanted])
    table = {name: tensor.detach() for name, tensor in groups.model.tensors()}  # no gradients of weights
    parameters: list[tuple[int, dict[str, Any], str]] = [(slot, table, name) for slot, name in plan.parameters]
    neutral = gated.feeds(groups.keep({}))
    open_gates = [gate for gate in gated.gates if gate.kind in _DIFFERENTIATED]
    together = batch_size if all(gate.per_sample for gate in open_gates) else 1
    random = np.random.default_rng(seed)
    totals: list[np.ndarray] = []
    for batch in _stacked(images, together):
        feeds = {name: paddle.to_tensor(array) for name, array in neutral.items()}
        for gate in open_gates:
            rows = np.repeat(neutral[gate.value.name], len(batch), axis=0) if together > 1 else neutral[gate.value.name]
            feeds[gate.value.name] = paddle.to_tensor(rows, stop_gradient=False)
        inputs = [paddle.to_tensor(batch), *(feeds[v.name] for v in gated.graph.inputs[1:])]
        logits = plan.run(inputs, parameters)[0]
        (loss(logits, sum(map(len, totals))) if loss else _cross_entropy(logits, random) * len(batch)).backward()
        totals.append(_per_component(groups, open_gates, feeds, len(batch)))
        progress(sum(map(len, totals)))
    total = np.concatenate(totals)
    return {group.name: total[:, group.components] for group in groups.groups}


_DIFFERENTIATED = ("zero", "mean")
"""Kinds of gates that multiply. What a norm or a maximum does to the others is left out of the estimate."""


def _stacked(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Images of one shape that follow each other, up to ``size`` together."""
    waiting: list[np.ndarray] = []
    for image in images:
        if waiting and (len(waiting) == size or image.shape != waiting[0].shape):
            yield np.concatenate(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield np.concatenate(waiting)


def _cross_entropy(logits: Any, random: np.random.Generator) -> Any:
    """Mean cross entropy to labels drawn from the softmax of ``logits`` (Gumbel-max)."""
    scores = logits.detach().numpy()
    labels = (scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    return F.cross_entropy(logits, paddle.to_tensor(labels[:, None]), axis=1)


def _per_component(groups: ChannelGroups, gates: Iterable[Gate], feeds: Mapping[str, Any], samples: int) -> np.ndarray:
    """Gradients summed over all places where a component is gated, ``[samples, components]``."""
    total = np.zeros((samples, int(groups.components.max()) + 1))
    for gate in gates:
        gradient = feeds[gate.value.name].grad
        if gradient is None:
            continue
        array = gradient.numpy().astype(np.float64).reshape(samples, -1)
        if gate.kind == "mean":  # the mean is over the others: removing one also raises their weight
            array = array - array.mean(axis=1, keepdims=True)
        np.add.at(total.T, gate.components.reshape(-1), array.T)
    return total


def taylor_curves(
    groups: ChannelGroups,
    gradients: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    fingerprint: Mapping[str, Any] | None = None,
) -> Curves:
    """Predicted loss of removing the least important channels: half the mean square of the sum of their gradients.

    The sum is taken for each image before it is squared, so channels that stand in for each other are seen to.
    """
    table = {}
    images = 0
    for group in groups.groups:
        if group.name not in scores:
            continue
        order = removal_order(scores[group.name])
        per_image = np.cumsum(gradients[group.name][:, order], axis=1)
        images = len(per_image)
        losses = 0.5 * np.square(per_image).mean(axis=0)
        kept = sorted({int(k) for k in np.linspace(1, group.width - 1, min(_POINTS, group.width - 1))}, reverse=True)
        table[group.name] = GroupCurve(
            group.width, kept, [float(losses[group.width - k - 1]) for k in kept], order.tolist()
        )
    return Curves("taylor", "loss (predicted)", 1.0, images, table, dict(fingerprint or {}))

"""Lovász losses: smooth stand-ins for the Jaccard index (Berman et al. 2018, "The Lovász-Softmax loss")."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.losses.functional import squeeze_label
from paddleseg_slim.registry import LOSSES


def lovasz_weights(errors: paddle.Tensor, foreground: paddle.Tensor, valid: paddle.Tensor) -> paddle.Tensor:
    """Gradient of the Lovász extension of the Jaccard loss (Berman 2018, algorithm 1), in the order of the pixels.

    The extension is linear between changes of the errors' order: its value is the sum of errors times these weights,
    and that product is all that is differentiated.

    Args:
        errors: float ``[P]``, how wrong each pixel is.
        foreground: float ``[P]``, 1 where the label is the class in question.
        valid: float ``[P]``, 1 where the pixel counts.

    Returns:
        Float ``[P]``; 0 where the pixel does not count.
    """
    errors = errors.detach()
    # pixels that do not count are sorted to the end, where they change nothing: no selection of unknown size
    order = paddle.argsort(paddle.where(valid > 0, errors, errors.min() - 1), descending=True)
    foreground = paddle.gather(foreground * valid, order)
    total = foreground.sum()
    jaccard = 1 - (total - foreground.cumsum()) / (total + (1 - foreground).cumsum())
    steps = paddle.concat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return paddle.scatter(paddle.zeros_like(steps), order, steps) * valid


@LOSSES.register()
class LovaszSoftmaxLoss(nn.Layer):
    """Lovász-softmax loss over all pixels of the batch, averaged over classes.

    Args:
        ignore_index: the label value of pixels that do not count.
        classes: ``present`` (those that occur in the labels of the batch), ``all``, or a list of class numbers.

    Raises:
        UserError: ``classes`` is another word.
    """

    def __init__(self, ignore_index: int = 255, classes: str | Sequence[int] = "present") -> None:
        super().__init__()
        if isinstance(classes, str) and classes not in ("present", "all"):
            raise UserError(
                f"LovaszSoftmaxLoss: `classes` is {classes!r}.", "Use `present`, `all` or a list of numbers."
            )
        self.ignore_index = ignore_index
        self.classes = classes

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logits`` ``[N, C, H, W]`` and ``labels`` ``[N, H, W]``; a scalar."""
        count = logits.shape[1]
        labels = squeeze_label(labels).flatten()
        valid = (labels != self.ignore_index).astype("float32")
        probabilities = F.softmax(logits, axis=1).transpose([1, 0, 2, 3]).reshape([count, -1])
        classes = self._classes(labels, count)
        if not classes:  # nothing but ignored pixels: a loss of 0 that has a gradient
            return probabilities.sum() * 0.0
        if len(classes) < count:
            probabilities = probabilities.index_select(paddle.to_tensor(classes))
        foreground = (labels.unsqueeze(0) == paddle.to_tensor(classes).unsqueeze(1)).astype("float32")
        errors = (foreground - probabilities).abs()  # [classes, P]
        with paddle.no_grad():
            weights = paddle.stack([lovasz_weights(*row, valid) for row in zip(errors, foreground)])
        return (errors * weights).sum() / len(classes)

    def _classes(self, labels: paddle.Tensor, count: int) -> list[int]:
        if not isinstance(self.classes, str):
            return list(self.classes)
        if self.classes == "all":
            return list(range(count))
        # one small copy to the host: it saves the sorting of every absent class, by far the larger cost
        known = paddle.where(labels != self.ignore_index, labels, paddle.full_like(labels, count))
        return paddle.bincount(known, minlength=count + 1)[:count].nonzero().flatten().tolist()


@LOSSES.register()
class LovaszHingeLoss(nn.Layer):
    """Binary Lovász hinge loss over all pixels of the batch.

    Args:
        ignore_index: the label value of pixels that do not count.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logits`` ``[N, 1, H, W]`` or ``[N, 2, H, W]`` and ``labels`` ``[N, H, W]``; a scalar.

        Of two channels the log-odds, their difference, is taken. (PaddleSeg has ``log(p + eps / (1 - p + eps))``
        there, a slip of parentheses that never exceeds 0 by much.)
        """
        score = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
        labels = squeeze_label(labels).flatten()
        valid = (labels != self.ignore_index).astype("float32")
        foreground = (labels == 1).astype("float32")
        errors = 1 - score.flatten() * (2 * foreground - 1)
        return (F.relu(errors) * lovasz_weights(errors, foreground, valid)).sum()

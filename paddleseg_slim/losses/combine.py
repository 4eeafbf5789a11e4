"""The `loss:` section of a config: one loss for each output of the model, weighted and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from paddleseg_slim.config.build import build
from paddleseg_slim.config.spec import LossSpec
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import LOSSES


class CombinedLoss(nn.Layer):
    """A weighted sum of losses, one for each output of the model.

    Args:
        types: the losses, in the order of the outputs; one alone serves all outputs.
        coef: a factor for each output.

    Raises:
        UserError: neither one loss nor as many as factors.
    """

    def __init__(self, types: Sequence[nn.Layer], coef: Sequence[float]) -> None:
        super().__init__()
        if len(types) not in (1, len(coef)):
            raise UserError(
                f"loss: {len(types)} entries in `types`, but {len(coef)} in `coef`.",
                "Give one type for all outputs, or one for each value in `coef`.",
            )
        self.coef = [float(value) for value in coef]
        self.types = nn.LayerList(types)

    def forward(
        self,
        outputs: paddle.Tensor | Sequence[paddle.Tensor],
        label: paddle.Tensor,
        edge: paddle.Tensor | None = None,
    ) -> dict[str, paddle.Tensor]:
        """Compute the losses.

        Args:
            outputs: the model's outputs, one for each factor.
            label: integers ``[N, H, W]`` (``[N]`` for a classifier).
            edge: labels of the object borders, ``[N, H, W]``, for a loss with ``edge_label``.

        Returns:
            ``loss``, the scalar to minimise, and with several outputs ``loss_0``, ``loss_1``, ..., the weighted terms.
            They are tensors on the device: nothing here waits for it.

        Raises:
            UserError: the model has another number of outputs than the config has factors, or no edge labels are
                there for a loss that needs them.
        """
        outputs = [outputs] if isinstance(outputs, paddle.Tensor) else list(outputs)
        if len(outputs) != len(self.coef):
            raise UserError(
                f"loss: {len(self.coef)} values in `coef`, but the model has {len(outputs)} outputs in training.",
                f"Give {len(outputs)} values in `loss.coef`, and one type or as many in `loss.types`.",
            )
        types = list(self.types) * (len(outputs) if len(self.types) == 1 else 1)
        terms = [
            coef * self._term(loss, index, outputs, label, edge)
            for index, (coef, loss) in enumerate(zip(self.coef, types))
        ]
        losses = {"loss": sum(terms[1:], terms[0])}
        if len(terms) > 1:
            losses.update({f"loss_{index}": term for index, term in enumerate(terms)})
        return losses

    @staticmethod
    def _term(
        loss: nn.Layer,
        index: int,
        outputs: list[paddle.Tensor],
        label: paddle.Tensor,
        edge: paddle.Tensor | None,
    ) -> paddle.Tensor:
        if getattr(loss, "between_outputs", False):  # a divergence of the first output from the second
            return loss(outputs[0], outputs[1].detach())
        if not getattr(loss, "edge_label", False):
            return loss(outputs[index], label)
        if edge is None:
            raise UserError(
                f"loss: {type(loss).__name__} with `edge_label: True` needs edge labels.",
                "Set `edge: True` in the train_dataset section.",
            )
        return loss(outputs[index], edge)


def build_loss(section: Mapping[str, Any], ignore_index: int | None = None, name: str = "loss") -> CombinedLoss:
    """Build the loss of a config.

    Args:
        section: ``{types: [{type: CrossEntropyLoss, ...}, ...], coef: [1, ...]}``.
        ignore_index: the dataset's, for each loss that does not state one.
        name: the section's name in messages: ``loss`` or ``distill_loss``.

    Raises:
        UserError: a key is missing or unknown, a loss or an argument of one is unknown, the counts differ, or a loss
            states another ``ignore_index`` than the dataset.
    """
    spec = LossSpec.parse(section, name)
    if ignore_index is not None:
        types = [_with_ignore_index(loss.to_dict(), ignore_index, loss.key_path) for loss in spec.types]
        spec = LossSpec.parse({"types": types, "coef": list(spec.coef)}, name)
    return CombinedLoss([build(loss, LOSSES) for loss in spec.types], spec.coef)


def _with_ignore_index(loss: dict[str, Any], ignore_index: int, path: str) -> dict[str, Any]:
    """Return ``loss``, or the losses inside a MixedLoss, with the dataset's ``ignore_index``."""
    if "losses" in loss:
        inner = [_with_ignore_index(dict(part), ignore_index, path) for part in loss["losses"]]
        return {**loss, "losses": inner}
    stated = loss.get("ignore_index", ignore_index)
    if stated != ignore_index:
        raise UserError(
            f"{path}.ignore_index is {stated}, the dataset's is {ignore_index}.", "Give the same value in both."
        )
    return {**loss, "ignore_index": ignore_index}

"""The `loss:` section of a config: one loss for each output of the model, weighted and summed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from paddleseg_slim.errors import UserError, nearest
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
        ignore_index: the dataset's; for each loss that takes one and does not set it.
        name: the section's name in messages: ``loss`` or ``distill_loss``.

    Raises:
        UserError: a key is missing or unknown, a loss or an argument of one is unknown, the counts differ, or a loss
            has another ``ignore_index`` than the dataset.
    """
    unknown = sorted(set(section) - {"types", "coef"})
    if unknown:
        raise UserError(f"{name}: unknown key `{unknown[0]}`.", nearest(unknown[0], ("types", "coef")))
    for key in ("types", "coef"):
        if not isinstance(section.get(key), (list, tuple)) or not section[key]:
            raise UserError(
                f"{name}.{key}: a list is wanted, found {section.get(key)!r}.",
                "For example `loss: {types: [{type: CrossEntropyLoss}], coef: [1]}`.",
            )
    types = [_build(spec, ignore_index, f"{name}.types[{index}]") for index, spec in enumerate(section["types"])]
    return CombinedLoss(types, section["coef"])


def _build(spec: Any, ignore_index: int | None, path: str) -> nn.Layer:
    """Build one loss from ``{type: Name, argument: value, ...}``; the losses of a MixedLoss are such specs too."""
    if isinstance(spec, nn.Layer):
        return spec
    if not isinstance(spec, Mapping) or "type" not in spec:
        raise UserError(f"{path}: `type` is missing in {spec!r}.", "For example `{type: CrossEntropyLoss}`.")
    arguments = {key: value for key, value in spec.items() if key != "type"}
    factory = LOSSES.get(spec["type"])
    known = inspect.signature(factory).parameters
    for key in arguments:
        if key not in known:
            raise UserError(f"{path}: {spec['type']} has no argument `{key}`.", nearest(key, known))
    missing = [key for key, value in known.items() if value.default is value.empty and key not in arguments]
    if missing:
        raise UserError(f"{path}: {spec['type']} needs the argument `{missing[0]}`.", "Add it to the loss section.")
    if ignore_index is not None and "ignore_index" in known:
        given = arguments.setdefault("ignore_index", ignore_index)
        if given != ignore_index:
            raise UserError(
                f"{path}: `ignore_index` is {given}, the dataset's is {ignore_index}.", "Use the same value in both."
            )
    if "losses" in arguments:
        arguments["losses"] = [
            _build(inner, ignore_index, f"{path}.losses[{index}]") for index, inner in enumerate(arguments["losses"])
        ]
    return factory(**arguments)

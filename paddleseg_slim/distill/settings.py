"""What to distil, from a config's ``distill_loss`` and ``slim.distill`` sections or from flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddle import nn

from paddleseg_slim.config import build
from paddleseg_slim.config.signature import convert
from paddleseg_slim.config.spec import ComponentSpec, LossSpec
from paddleseg_slim.distill import losses as _losses  # (registers them)
from paddleseg_slim.distill.distiller import Term
from paddleseg_slim.distill.taps import AUTOMATIC
from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.registry import LOSSES

_KEYS = {"loss": "", "weight": "float", "student": "str", "teacher": "str", "start": "int", "ramp": "int"}
_OLD_KEYS = ("s_feature_idx", "t_feature_idx", "feature_type", "loss_function", "weight")
_HIDDEN = ("hidden", "feature")
_LABEL_LOSSES = "paddleseg_slim.losses."
"""The modules of the losses of labels; one of them, ``kl``, is a loss against a teacher."""


def terms_of_losses(section: LossSpec) -> list[Term]:
    """PaddleSeg's ``distill_loss: {types: [{type: KLLoss}], coef: [3]}``: losses of the logits.

    Raises:
        UserError: a loss or an argument is unknown.
    """
    return [Term(_loss(spec), weight) for spec, weight in zip(section.types, section.coef)]


def terms_of_list(items: Any, key_path: str = "slim.distill") -> list[Term]:
    """A list of ``{loss: {type: CWDLoss}, weight: 3, student: ..., teacher: ..., start: 0, ramp: 100}``.

    The items of PaddleSeg's ``distill_config`` (``s_feature_idx``, ``t_feature_idx``, ``feature_type``,
    ``loss_function``, ``weight``) are read, too: ``feature_type`` is ``logits``, or ``hidden`` with an index that
    counts the stages that both models have, the finest resolution first.

    Raises:
        UserError: a key is unknown or malformed.
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise UserError(f"{key_path} is {items!r}, no list.", "Write a list of {loss: {type: ...}, weight: ...}.")
    return [_term(item, f"{key_path}[{index}]") for index, item in enumerate(items)]


def _term(item: Any, where: str) -> Term:
    if not isinstance(item, Mapping):
        raise UserError(f"{where} is {item!r}.", "Write {loss: {type: ...}, weight: ...}.")
    if "loss_function" in item:
        return _old_term(item, where)
    for key in item:
        if key not in _KEYS:
            raise UserError(f"{where}.{key}: unknown key.", nearest(str(key), _KEYS))
    if "loss" not in item:
        raise UserError(f"{where}.loss is missing.", f"Known: {', '.join(names())}.")
    loss = item["loss"]
    spec = ComponentSpec.parse({"type": loss} if isinstance(loss, str) else loss, f"{where}.loss")
    values = {key: convert(item[key], _KEYS[key], f"{where}.{key}") for key in item if key != "loss"}
    return Term(_loss(spec), **values)


def _old_term(item: Mapping[str, Any], where: str) -> Term:
    for key in item:
        if key not in _OLD_KEYS:
            raise UserError(f"{where}.{key}: unknown key.", nearest(str(key), _OLD_KEYS))
    kind, weight = item.get("feature_type", "hidden"), convert(item.get("weight", 1.0), "float", f"{where}.weight")
    loss = _loss(ComponentSpec.parse({"type": item["loss_function"]}, where))
    if kind == "logits":
        return Term(loss, weight)
    if kind not in _HIDDEN:
        raise UserError(f"{where}.feature_type is {kind!r}.", "It is 'logits' or 'hidden'.")
    ours, theirs = (item.get(key, 0) for key in ("s_feature_idx", "t_feature_idx"))
    return Term(loss, weight, f"{AUTOMATIC}:{ours}", f"{AUTOMATIC}:{theirs}")


def term(name: str, weight: float, student: str = "", teacher: str = "", **arguments: Any) -> Term:
    """A term by the name of its loss.

    Raises:
        UserError: the loss, or one of its arguments, is unknown.
    """
    return Term(_loss(ComponentSpec(name, arguments, name)), weight, student, teacher)


def _loss(spec: ComponentSpec) -> nn.Layer:
    """The loss that a section names.

    Raises:
        UserError: it is unknown, an argument of it is, or it compares predictions with labels.
    """
    built: nn.Layer = build(spec, LOSSES)
    if type(built).__module__.startswith(_LABEL_LOSSES) and spec.type not in names():
        raise UserError(
            f"{spec.key_path}: {spec.type} compares with labels, not with a teacher.", nearest(spec.type, names())
        )
    return built


def names() -> list[str]:
    """Names of the losses that compare a student with a teacher."""
    return [name for name in LOSSES if LOSSES.get(name).__module__ in (_losses.__name__, f"{_LABEL_LOSSES}kl")]

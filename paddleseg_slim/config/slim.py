"""The compression section: ``slim:`` in a model's config, or a second file as PaddleDetection's ``--slim_config``.

    slim: QAT                                  # or Pruner, UnstructuredPruner, PTQ, Distill
    pretrain_weights: output/best_model/model.pdparams
    QAT:
      quant_config: {activation_preprocess_type: PACT, weight_bits: 8}
      retraining_iters: 500                    # options of the command that does it, here quant

Several methods are done in order, each on what the one before made: ``slim: [Pruner, Distill, QAT]`` with a section for
each, or one of PaddleDetection's joint strategies by name: ``DistillPrune`` and ``PrunerQAT``. In a model's config the
same stands below ``slim:``, and the first key is called ``method``. Nothing here knows a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.config.merge import read_with_bases
from paddleseg_slim.errors import UserError, nearest

METHODS = ("Pruner", "UnstructuredPruner", "QAT", "PTQ", "Distill")
JOINT = {"DistillPrune": ("Pruner", "Distill"), "PrunerQAT": ("Pruner", "QAT")}
"""Joint strategies of PaddleDetection: the methods that they stand for, in order."""

_WEIGHTS = ("pretrain_weights", "weights")
_OBSERVERS = {"HistQuantizer": "hist", "KLQuantizer": "kl", "AbsmaxQuantizer": "abs_max", "MSEQuantizer": "mse"}
_RENAMED = {"quant_batch_num": "batch_nums", "ratio": "pruning_ratio"}
_DETECTION = ("pruned_params", "pruned_ratios", "slim_method", "ofa_config")
"""Keys that name parameters of Paddle 2 or parts of detectors, for which there is nothing to apply them to."""
_ASSUMED = {
    **{"dtype": "int8", "fuse": True, "fuse_conv_bn": True, "onnx_format": True, "weight_preprocess_type": None},
    **{"print_model": None, "print_params": None, "print_qat_model": None, "print_prune_params": None},
}
"""Keys that say what is done in any case, with the value that this package has; None: any value."""
_OF_QAT = ("quant_config", "print_qat_model", "retraining_iters")
"""Keys of a section ``PrunerQAT`` that are the quantizer's; the others are the pruner's."""
_LOGITS_LOSSES = ("KDLoss", "KLLoss", "DKDLoss")


@dataclass(frozen=True)
class SlimStep:
    """One method.

    Attributes:
        method: one of `METHODS`.
        options: of the command that does it, by name.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SlimSection:
    """How to compress.

    Attributes:
        steps: in order, at least one.
        weights: of the model to begin with (of the teacher where one distils); empty when not given.
        name: of the run: that of the file.
    """

    steps: tuple[SlimStep, ...]
    weights: str = ""
    name: str = ""

    @property
    def distils(self) -> bool:
        """Whether one of the methods needs a teacher."""
        return any(step.method == "Distill" for step in self.steps)


def read_slim(path: str | Path) -> SlimSection:
    """Read a file of ``--slim_config``.

    Raises:
        UserError: it cannot be read, or its method or a key of it is unknown.
    """
    data = read_with_bases(path)
    section = data.get("slim")
    if isinstance(section, Mapping):
        return parse_slim(section, Path(path).stem, "slim")
    return parse_slim({**{k: v for k, v in data.items() if k != "slim"}, "method": section}, Path(path).stem, str(path))


def parse_slim(section: Mapping[str, Any], name: str, where: str) -> SlimSection:
    """Parse the section of a model's config.

    Raises:
        UserError: the method or a key is unknown.
    """
    methods, joint = _methods(section.get("method"), where)
    loss = section.get("distill_loss")
    if not isinstance(loss, (str, type(None))):
        raise UserError(f"{where}: distill_loss is {loss!r}.", "Name one loss: distill_loss: CWDLoss.")
    known = [*methods, *([joint] if joint else []), *_WEIGHTS]
    if "Distill" in methods:
        known += ["distill_loss", *([str(loss)] if loss else [])]
    for key, value in section.items():
        if key not in ("method", *known) and not (key == "pruner" and value in methods):
            raise UserError(f"{where}: unknown key {key!r}.", nearest(str(key), known))
    own = {method: _mapping(section, method, where) for method in methods}
    for key, value in (_mapping(section, joint, where) if joint else {}).items():
        method = methods[1] if key in _OF_QAT and "QAT" in methods else methods[0]
        own[method] = {**own[method], key: value}
    steps = [SlimStep(method, _options(own[method], f"{where}.{method}")) for method in methods]
    if loss:
        index = methods.index("Distill")
        steps[index] = SlimStep("Distill", {**_loss(section, str(loss), where), **steps[index].options})
    return SlimSection(tuple(steps), next((str(section[key]) for key in _WEIGHTS if section.get(key)), ""), name)


def _methods(given: Any, where: str) -> tuple[Sequence[str], str]:
    """The methods in order, and the joint strategy that they are called by, if any."""
    if isinstance(given, str) and given in JOINT:
        return JOINT[given], given
    methods = given if isinstance(given, list) and given else [given]
    for method in methods:
        if method not in METHODS:
            raise UserError(f"{where}: the method is {method!r}.", nearest(str(method), (*METHODS, *JOINT)))
        if methods.count(method) > 1:
            raise UserError(f"{where}: {method} stands twice in {methods}.", "Write a recipe for slim/compress.py.")
    return methods, ""


def _mapping(section: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = section.get(key) or {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}.{key} is {value!r}.", f"Write the options of {key} below it.")
    return value


def _loss(section: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """``distill_loss: NAME`` with ``NAME: {weight: ...}`` as options of the distil command."""
    kind = "logits" if name in _LOGITS_LOSSES else "feature"
    options: dict[str, Any] = {f"{kind}_loss": name}
    for key, value in _mapping(section, name, where).items():
        if key not in ("weight", "temperature"):
            raise UserError(f"{where}.{name}.{key}: unknown key.", nearest(str(key), ("weight", "temperature")))
        options[f"{kind}_weight" if key == "weight" else key] = value
    return options


def _options(own: Mapping[str, Any], where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in own.items():
        nested = key in ("quant_config", "ptq_config") and isinstance(value, Mapping)
        for part, item in value.items() if nested else [(key, value)]:
            options.update(_option(str(part), item, where))
    return options


def _option(key: str, value: Any, where: str) -> dict[str, Any]:
    if key in _DETECTION:
        raise UserError(
            f"{where}.{key} names parts of a network of Paddle 2.", "Give pruning_ratio (and keep, limit) instead."
        )
    if key in _ASSUMED:
        if _ASSUMED[key] is not None and value != _ASSUMED[key]:
            raise UserError(f"{where}.{key} is {value!r}.", f"It is always {_ASSUMED[key]!r} here: leave it out.")
        return {}
    if key == "activation_preprocess_type":
        return {"activation_quantize_type": value} if value else {}
    if key == "activation_quantizer":
        if str(value) not in _OBSERVERS:
            raise UserError(f"{where}.{key} is {value!r}.", nearest(str(value), _OBSERVERS))
        return {"observer": _OBSERVERS[value]}
    return {_RENAMED.get(key, key): value}

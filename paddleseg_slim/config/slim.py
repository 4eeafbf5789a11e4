"""The compression section: ``slim:`` in a model's config, or a second file as PaddleDetection's ``--slim_config``.

    slim: QAT                                  # Pruner, UnstructuredPruner, QAT, PTQ or Distill
    pretrain_weights: output/best_model/model.pdparams
    QAT:
      quant_config: {activation_preprocess_type: PACT, weight_bits: 8}
      retraining_iters: 500                    # options of the command that does it, here quant

In a model's config the same stands below ``slim:``, and the first key is called ``method``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.config.merge import read_with_bases
from paddleseg_slim.errors import UserError, nearest

METHODS = ("Pruner", "UnstructuredPruner", "QAT", "PTQ", "Distill")
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


@dataclass(frozen=True)
class SlimSection:
    """How to compress.

    Attributes:
        method: one of `METHODS`.
        options: of the command that does it, by name.
        weights: of the model to begin with (of the teacher for Distill); empty when not given.
        name: of the run: that of the file.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    name: str = ""


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
    method = section.get("method")
    if method not in METHODS:
        raise UserError(f"{where}: the method is {method!r}.", nearest(str(method), METHODS))
    own = section.get(method) or {}
    if not isinstance(own, Mapping):
        raise UserError(f"{where}.{method} is {own!r}.", f"Write the options of {method} below it.")
    for key in section:
        if key not in ("method", method, *_WEIGHTS):
            raise UserError(f"{where}: unknown key {key!r}.", nearest(str(key), (method, *_WEIGHTS)))
    options: dict[str, Any] = {}
    for key, value in own.items():
        parts = (
            value.items() if key in ("quant_config", "ptq_config") and isinstance(value, Mapping) else [(key, value)]
        )
        for part, item in parts:
            options.update(_option(str(part), item, f"{where}.{method}"))
    weights = next((str(section[key]) for key in _WEIGHTS if section.get(key)), "")
    return SlimSection(method, options, weights, name)


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
        if value not in _OBSERVERS:
            raise UserError(f"{where}.{key} is {value!r}.", nearest(str(value), _OBSERVERS))
        return {"observer": _OBSERVERS[value]}
    return {_RENAMED.get(key, key): value}

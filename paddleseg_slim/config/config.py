"""The typed form of a PaddleSeg YAML file."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from paddleseg_slim.config.consistency import fill_from_dataset
from paddleseg_slim.config.merge import parse_opts, read_with_bases, with_values
from paddleseg_slim.config.signature import convert
from paddleseg_slim.config.spec import ComponentSpec, LossSpec
from paddleseg_slim.errors import UserError, nearest

TEST_KEYS = {
    "aug_eval": "bool",
    "scales": "float | list[float]",
    "flip_horizontal": "bool",
    "flip_vertical": "bool",
    "is_slide": "bool",
    "crop_size": "list[int]",
    "stride": "list[int]",
    "auc_roc": "bool",
}
"""Keys of the section ``test_config`` and the types of their values."""

EXPORT_KEYS = {
    "input_shape": "list[int | None]",
    "output_op": "Literal['argmax', 'softmax', 'none']",
    "for_fd": "bool",
}
"""Keys of the section ``export`` and the types of their values."""

REQUIRED = ("batch_size", "iters", "train_dataset", "optimizer", "lr_scheduler", "loss", "model")
OPTIONAL = (
    "task",
    "val_dataset",
    "test_dataset",
    "distill_loss",
    "test_config",
    "export",
    "slim",
    "to_static_training",
)
SECTIONS = (*REQUIRED[2:], "val_dataset", "test_dataset", "distill_loss", "test_config", "export", "slim")

_NOT_IN_FINGERPRINT = ("export", "test_config", "test_dataset")
_SHORT = {"learning_rate": "lr_scheduler.learning_rate"}
_DECAYS = {"poly": "PolynomialDecay", "piecewise": "PiecewiseDecay"}


Section = TypeVar("Section", ComponentSpec, LossSpec)


@dataclass(frozen=True)
class Config:
    """A config with everything resolved: bases, options, flags, and what PaddleSeg fills in from the dataset.

    Attributes:
        path: the file that was read; None for a config made from a dict.
        task: registered name of the task; ``segmentation`` unless the file says otherwise.
        batch_size: samples of one step, on one device.
        iters: training steps.
        train_dataset, val_dataset, test_dataset: to learn from, to choose by, to report on; the last two are optional.
        optimizer, lr_scheduler, model: components.
        loss, distill_loss: losses with weights; the second is None where the file has none.
        test_config: how to evaluate (`TEST_KEYS`).
        export: how to export (`EXPORT_KEYS`).
        slim: settings of the compression stages, as they stand.
        to_static_training: train through ``paddle.jit.to_static``.
        raw: the resolved config as plain dicts and lists.
    """

    path: Path | None
    task: str
    batch_size: int
    iters: int
    train_dataset: ComponentSpec
    val_dataset: ComponentSpec | None
    test_dataset: ComponentSpec | None
    optimizer: ComponentSpec
    lr_scheduler: ComponentSpec
    loss: LossSpec
    distill_loss: LossSpec | None
    model: ComponentSpec
    test_config: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    slim: dict[str, Any] = field(default_factory=dict)
    to_static_training: bool = False
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The resolved config as plain dicts and lists, for a manifest; `config_from_dict` reads it again."""
        return copy.deepcopy(self.raw)

    def fingerprint(self) -> str:
        """Hash of all that a resumed run must share with the run it continues (evaluation and export do not count)."""
        text = json.dumps(_for_fingerprint(self.raw), sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def differences(self, other: Config | Mapping[str, Any]) -> list[str]:
        """What keeps the fingerprints apart, one line a key path: ``optimizer.momentum: 0.9, was 0.8``.

        Args:
            other: the config to compare with (the older one), or its `to_dict`.
        """
        before = dict(_leaves(_for_fingerprint(other.raw if isinstance(other, Config) else other)))
        after = dict(_leaves(_for_fingerprint(self.raw)))
        paths = [*after, *(path for path in before if path not in after)]
        return [
            f"{path}: {after.get(path, 'absent')}, was {before.get(path, 'absent')}"
            for path in paths
            if path not in before or path not in after or before[path] != after[path]
        ]


def _for_fingerprint(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in _NOT_IN_FINGERPRINT and value not in (None, {})}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def load_config(path: str | Path, opts: Iterable[str] = (), *, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a PaddleSeg YAML file.

    Args:
        path: the file.
        opts: ``key.path=value`` items of ``--opts``.
        overrides: values of other flags by key path (``batch_size``, ``model.num_classes``, also the short
            ``learning_rate``); a None is a flag that was not given. They win over ``opts``.

    Raises:
        UserError: by key path: an unknown or missing key, a wrong type, or sections that contradict each other.
    """
    raw = _modern(read_with_bases(path))
    flags = {_SHORT.get(key, key): value for key, value in (overrides or {}).items() if value is not None}
    raw = with_values(raw, {**parse_opts(opts), **flags}, SECTIONS)
    return config_from_dict(raw, Path(path))


def config_from_dict(resolved: Mapping[str, Any], path: Path | None = None) -> Config:
    """Make a typed config of a resolved one (see `load_config`)."""
    raw = copy.deepcopy(dict(resolved))
    for key in raw:
        if key not in REQUIRED and key not in OPTIONAL:
            raise UserError(
                f"{key}: unknown key at the top level of {path or 'the config'}.",
                nearest(str(key), (*REQUIRED, *OPTIONAL)),
            )
    for key in REQUIRED:
        if raw.get(key) is None:
            raise UserError(
                f"{path or 'The config'} has no section {key}.",
                f"Write '{key}:' into it, or name a _base_ that has it.",
            )
    fill_from_dataset(raw)
    raw["task"] = convert(raw.get("task") or "segmentation", "str", "task")
    for key in ("batch_size", "iters"):
        raw[key] = _count(raw[key], key)
    return Config(
        path=path,
        task=raw["task"],
        batch_size=raw["batch_size"],
        iters=raw["iters"],
        train_dataset=ComponentSpec.parse(raw["train_dataset"], "train_dataset"),
        val_dataset=_optional(ComponentSpec, raw, "val_dataset"),
        test_dataset=_optional(ComponentSpec, raw, "test_dataset"),
        optimizer=ComponentSpec.parse(raw["optimizer"], "optimizer"),
        lr_scheduler=ComponentSpec.parse(raw["lr_scheduler"], "lr_scheduler"),
        loss=LossSpec.parse(raw["loss"], "loss"),
        distill_loss=_optional(LossSpec, raw, "distill_loss"),
        model=ComponentSpec.parse(raw["model"], "model"),
        test_config=_settings(raw.get("test_config"), TEST_KEYS, "test_config"),
        export=_settings(raw.get("export"), EXPORT_KEYS, "export"),
        slim=convert(raw.get("slim") or {}, "dict", "slim"),
        to_static_training=convert(raw.get("to_static_training") or False, "bool", "to_static_training"),
        raw=raw,
    )


def _optional(kind: type[Section], raw: dict[str, Any], key: str) -> Section | None:
    return kind.parse(raw[key], key) if raw.get(key) else None


def _count(value: Any, key: str) -> int:
    number = convert(value, "int", key)
    if number < 1:
        raise UserError(f"{key} is {value}.", "It must be a whole number of 1 or more.")
    return int(number)


def _settings(section: Any, known: Mapping[str, str], key_path: str) -> dict[str, Any]:
    values = {}
    for key, value in convert(section or {}, "dict", key_path).items():
        if key not in known:
            raise UserError(f"{key_path}.{key}: unknown key.", nearest(str(key), known))
        if value is None and "'none'" in known[key]:
            value = "none"  # which YAML files and --opts read as a null
        if value is not None:
            values[key] = convert(value, known[key], f"{key_path}.{key}")
    return values


def _modern(raw: dict[str, Any]) -> dict[str, Any]:
    """Rewrite the section ``learning_rate: {value, decay}`` of PaddleSeg 2.0 as the ``lr_scheduler`` of today."""
    old = raw.get("learning_rate")
    if not isinstance(old, Mapping):
        return raw
    if "lr_scheduler" in raw:
        raise UserError(
            "The config has learning_rate and lr_scheduler.", "Keep lr_scheduler; learning_rate is its old form."
        )
    for key in old:
        if key not in ("value", "decay"):
            raise UserError(f"learning_rate.{key}: unknown key.", "learning_rate has the keys value and decay.")
    decay = dict(old.get("decay") or {})
    name = decay.pop("type", "poly")
    schedule = {"type": _DECAYS.get(name, name), "learning_rate": old.get("value"), **decay}
    return {**{key: value for key, value in raw.items() if key != "learning_rate"}, "lr_scheduler": schedule}

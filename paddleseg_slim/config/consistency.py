"""What the sections of a config must agree on, and what one is filled in with from another, as PaddleSeg does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paddleseg_slim.errors import UserError

_DATASETS = ("train_dataset", "val_dataset", "test_dataset")
_LOSSES = ("loss", "distill_loss")


def fill_from_dataset(raw: dict[str, Any]) -> None:
    """Fill ``model.num_classes``, the input channels and the losses' ``ignore_index`` in, in place, where absent.

    Only keys that a dataset section states count; what a named dataset implies by its class is the task's to fill.

    Raises:
        UserError: two sections state different values.
    """
    _fill(raw, "num_classes", [("model", raw["model"])])
    _fill(raw, "img_channels", [_input(raw["model"])], "in_channels")
    _fill(raw, "ignore_index", list(_losses(raw)))


def _fill(raw: dict[str, Any], key: str, targets: list[tuple[str, Any]], name: str | None = None) -> None:
    name = name or key
    stated = {section: raw[section][key] for section in _DATASETS if _states(raw.get(section), key)}
    places = [(path, place) for path, place in targets if isinstance(place, dict)]
    found = {f"{section}.{key}": value for section, value in stated.items()}
    found.update({f"{path}.{name}": place[name] for path, place in places if _states(place, name)})
    if stated and len({str(value) for value in found.values()}) > 1:
        raise UserError(
            "The config contradicts itself: " + ", ".join(f"{path} is {value}" for path, value in found.items()) + ".",
            f"Give the same {name} everywhere, or state it in the datasets alone.",
        )
    for _, place in places:
        if stated and not _states(place, name):
            place[name] = next(iter(stated.values()))


def _states(section: Any, key: str) -> bool:
    return isinstance(section, dict) and section.get(key) is not None


def _input(model: Any) -> tuple[str, Any]:
    backbone = model.get("backbone") if isinstance(model, dict) else None
    return ("model.backbone", backbone) if isinstance(backbone, dict) else ("model", model)


def _losses(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for section in _LOSSES:
        types = raw.get(section, {}).get("types") if isinstance(raw.get(section), dict) else None
        for index, loss in enumerate(types if isinstance(types, list) else []):
            path = f"{section}.types[{index}]"
            parts = loss.get("losses") if isinstance(loss, dict) else None
            if isinstance(parts, list):
                yield from ((f"{path}.losses[{i}]", part) for i, part in enumerate(parts))
            else:
                yield path, loss

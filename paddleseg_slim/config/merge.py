"""Put a config together: ``_base_`` files, ``_inherited_: False`` sections, ``--opts a.b=c``, flags."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paddleseg_slim.config.yaml_file import read_mapping, read_value
from paddleseg_slim.errors import UserError, nearest

BASE = "_base_"
INHERITED = "_inherited_"


def read_with_bases(path: str | Path) -> dict[str, Any]:
    """Read a config and the files named by its ``_base_`` (paths relative to the file that names them).

    A key of the file wins over its bases, an earlier base over a later one, and a section with
    ``_inherited_: False`` takes nothing from below.

    Raises:
        UserError: a file cannot be read, or a file is among its own bases.
    """
    return _without_marks(_read(Path(path), ()))


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in chain:
        raise UserError(f"{path} is among its own {BASE} files.", f"Remove the circle in {BASE} of {chain[-1]}.")
    data = read_mapping(path)
    bases = data.pop(BASE, None) or []
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str):
            raise UserError(f"{path}: {BASE} holds {base!r}.", f"{BASE} is the path of a YAML file or a list of paths.")
        base_path = path.parent / base
        if not base_path.is_file():
            raise UserError(f"{path}: {BASE} names {base}, but {base_path} does not exist.", "Correct the path.")
        data = _over(data, _read(base_path, (*chain, resolved)))
    return data


def _over(data: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    if data.get(INHERITED, True) is False:
        return data
    merged = dict(base)
    for key, value in data.items():
        below = base.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = _over(value, below) if both and isinstance(below, dict) else value
    return merged


def _without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_marks(item) for key, item in value.items() if key != INHERITED}
    return [_without_marks(item) for item in value] if isinstance(value, list) else value


def parse_opts(opts: Iterable[str]) -> dict[str, Any]:
    """Parse ``key.path=value`` items of the command line.

    Raises:
        UserError: an item has no ``=`` or no key.
    """
    values = {}
    for item in opts:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--opts got {item!r}.", "Write key.path=value, for example --opts model.num_classes=3.")
        values[key.strip()] = read_value(text.strip())
    return values


def with_values(data: Mapping[str, Any], values: Mapping[str, Any], sections: Iterable[str] = ()) -> dict[str, Any]:
    """Return a copy of ``data`` with the values at their key paths set.

    Args:
        data: a resolved config.
        values: by key path: ``iters``, ``train_dataset.transforms.0.type`` or ``train_dataset.transforms[0].type``.
        sections: sections of the top level that are made when the config lacks them.

    Raises:
        UserError: the path leads through a key or list index that does not exist.
    """
    result = copy.deepcopy(dict(data))
    made = set(sections)
    for path, value in values.items():
        keys = [key for key in re.split(r"[.\[\]]+", path) if key]
        place: Any = result
        for depth, key in enumerate(keys[:-1]):
            if depth == 0 and key in made and place.get(key) is None:
                place[key] = {}
            place = place[_key_in(place, key, path)]
        last = keys[-1]
        if isinstance(place, dict):
            place[last] = value
        else:
            place[_key_in(place, last, path)] = value
    return result


def _key_in(place: Any, key: str, path: str) -> Any:
    if isinstance(place, list):
        if key.isdigit() and int(key) < len(place):
            return int(key)
        raise UserError(f"{path}: there is no item {key!r} in a list of {len(place)}.", "List items count from 0.")
    if isinstance(place, dict):
        if key in place:
            return key
        raise UserError(f"{path}: the config has no {key!r} to go into.", nearest(key, map(str, place)))
    raise UserError(f"{path}: {key!r} stands below {place!r}, which holds no keys.", "Correct the key path.")

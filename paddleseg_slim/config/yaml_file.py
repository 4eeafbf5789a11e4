"""Read YAML as PaddleSeg's users write it: no Python objects, no duplicate keys, ``1e-4`` a number, ``None`` a null."""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from paddleseg_slim.errors import UserError


class ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the reading rules of this module."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping, but refuse a key that stands twice in it (PyYAML keeps the last silently)."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # PyYAML's own error, below, names it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a section", node.start_mark, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, wants a dot and a signed exponent in a float: 1e-4 would be a string.
ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
ConfigLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(None|none)$"), ["N", "n"])


def _construct_null(loader: ConfigLoader, node: yaml.Node) -> None:
    return None


ConfigLoader.add_constructor("tag:yaml.org,2002:null", _construct_null)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UserError: the file is missing, is not YAML, holds a duplicate key or a Python object, or is not a mapping.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a directory" if file.is_dir() else "does not exist"
        raise UserError(f"The config {file} {what}.", "Give the path of a .yml file, such as one under configs/.")
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=ConfigLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{file}{where}: {error.problem}.", "Correct the YAML at this place.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a YAML text: {error}.".replace("\n", " "), "Give a UTF-8 YAML file.") from error
    if not isinstance(data, dict):
        found = "empty" if data is None else f"a {type(data).__name__}"
        raise UserError(f"The config {file} is {found}, not a mapping.", "Write sections such as 'model:' in it.")
    return data


def read_value(text: str) -> Any:
    """Read a value given on the command line: a Python literal (``0.75,1.0``), else YAML (``true``), else a string.

    Tuples become lists, as YAML would give them.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        try:
            value = yaml.load(text, Loader=ConfigLoader)
        except yaml.YAMLError:
            return text
    return list(value) if isinstance(value, tuple) else value

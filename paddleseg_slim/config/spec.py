"""Component sections: a ``type``, its arguments, and where in the config they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddleseg_slim.errors import UserError


@dataclass(frozen=True)
class ComponentSpec:
    """A component of a config, before it is built.

    Attributes:
        type: the registered name.
        args: arguments by name; a nested component is a ComponentSpec, also inside lists.
        key_path: where it stands: ``model.backbone``, ``train_dataset.transforms[2]``.
    """

    type: str
    args: dict[str, Any] = field(default_factory=dict)
    key_path: str = ""

    @classmethod
    def parse(cls, section: Any, key_path: str) -> ComponentSpec:
        """Parse a mapping that has a ``type``.

        Raises:
            UserError: it is not a mapping, or its ``type`` is missing or not a name.
        """
        if not isinstance(section, Mapping):
            raise UserError(
                f"{key_path} is {section!r}, not a section.", f"Write '{key_path}:' with a 'type:' below it."
            )
        name = section.get("type")
        if not isinstance(name, str):
            given = "has no type" if name is None else f"has the type {name!r}"
            raise UserError(f"{key_path} {given}.", f"Write 'type: <name>' into {key_path}.")
        args = {str(key): _parse(value, f"{key_path}.{key}") for key, value in section.items() if key != "type"}
        return cls(name, args, key_path)

    def without(self, *names: str) -> ComponentSpec:
        """The same component without the arguments ``names`` (those that the caller handles itself)."""
        return ComponentSpec(self.type, {k: v for k, v in self.args.items() if k not in names}, self.key_path)

    def with_args(self, **args: Any) -> ComponentSpec:
        """The same component with further or other arguments."""
        return ComponentSpec(self.type, {**self.args, **args}, self.key_path)

    def to_dict(self) -> dict[str, Any]:
        """The section again, as plain dicts and lists."""
        return {"type": self.type, **{key: _plain(value) for key, value in self.args.items()}}


def _parse(value: Any, key_path: str) -> Any:
    if isinstance(value, Mapping):
        if "type" in value:
            return ComponentSpec.parse(value, key_path)
        return {key: _parse(item, f"{key_path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_parse(item, f"{key_path}[{index}]") for index, item in enumerate(value)]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, ComponentSpec):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class LossSpec:
    """The section ``loss`` or ``distill_loss``: one component and one weight for each output of the model.

    Attributes:
        types: the losses, as many as ``coef`` (one type for several weights is repeated, as in PaddleSeg).
        coef: the weights.
        key_path: ``loss`` or ``distill_loss``.
    """

    types: tuple[ComponentSpec, ...]
    coef: tuple[float, ...]
    key_path: str = "loss"

    @classmethod
    def parse(cls, section: Any, key_path: str) -> LossSpec:
        """Parse a mapping with ``types`` and ``coef``.

        Raises:
            UserError: one of them is missing or malformed, or their numbers differ.
        """
        example = f"Write '{key_path}: {{types: [{{type: CrossEntropyLoss}}], coef: [1]}}'."
        if not isinstance(section, Mapping):
            raise UserError(f"{key_path} is {section!r}, not a section.", example)
        for key in ("types", "coef"):
            if not isinstance(section.get(key), list) or not section[key]:
                raise UserError(f"{key_path}.{key} is {section.get(key)!r}, not a list of one or more.", example)
        for key in section:
            if key not in ("types", "coef"):
                raise UserError(f"{key_path}.{key}: unknown key.", f"{key_path} has the keys types and coef.")
        types = [ComponentSpec.parse(item, f"{key_path}.types[{i}]") for i, item in enumerate(section["types"])]
        coef = section["coef"]
        for index, value in enumerate(coef):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(f"{key_path}.coef[{index}] is {value!r}, not a number.", example)
        if len(types) == 1:
            types = types * len(coef)
        if len(types) != len(coef):
            raise UserError(
                f"{key_path} has {len(types)} types and {len(coef)} coef.",
                "Give one weight for each loss, or one loss for all weights.",
            )
        return cls(tuple(types), tuple(float(value) for value in coef), key_path)

    def to_dict(self) -> dict[str, Any]:
        """The section again, as plain dicts and lists."""
        return {"types": [spec.to_dict() for spec in self.types], "coef": list(self.coef)}

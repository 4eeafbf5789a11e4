"""Build the components of a config, every argument checked first."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from paddleseg_slim.config.signature import check_arguments
from paddleseg_slim.config.spec import ComponentSpec
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import BACKBONES, DATASETS, LOSSES, MODELS, TRANSFORMS, Registry

_NESTED = {"backbone": BACKBONES, "transforms": TRANSFORMS, "losses": LOSSES}
"""Registry of a nested component, by the name of the argument that holds it; others use that of what holds them."""

_MODELS_HOME = "paddleseg_slim.models"
_HOMES = {
    MODELS.kind: _MODELS_HOME,
    BACKBONES.kind: _MODELS_HOME,
    LOSSES.kind: "paddleseg_slim.losses",
    DATASETS.kind: "paddleseg_slim.data",
    TRANSFORMS.kind: "paddleseg_slim.data",
}
"""The package that registers the components of a kind when it is imported."""


def build(spec: ComponentSpec, registry: Registry, **given: Any) -> Any:
    """Build a component and, before it, the components among its arguments.

    Args:
        spec: what to build.
        registry: where its type is registered.
        given: further arguments that the program adds; they win over those of the config.

    Raises:
        UserError: an unknown type, or an unknown, missing or wrongly typed argument, by its key path.
    """
    check(spec, registry, **given)
    item, args = _checked(spec, registry, given)
    return item(**{**{key: _built(value, key, registry) for key, value in args.items()}, **given})


def check(spec: ComponentSpec, registry: Registry, **given: Any) -> None:
    """Check a component and those among its arguments as `build` does, but build nothing (see `build`)."""
    _, args = _checked(spec, registry, given)
    for key, value in args.items():
        _check_nested(value, key, registry, f"{spec.key_path}.{key}")


def _checked(spec: ComponentSpec, registry: Registry, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        item = _find(spec.type, registry)
    except UserError as error:
        raise UserError(f"{spec.key_path}.type: {error.cause}", error.remedy) from None
    own = {key: value for key, value in spec.args.items() if key not in given}
    return item, check_arguments(item, own, spec.key_path, given)


def _find(name: str, registry: Registry) -> Any:
    home = _HOMES.get(registry.kind)
    if home:
        importlib.import_module(home)
    if home == _MODELS_HOME:  # a model that we lack may come from an installed paddleseg
        return importlib.import_module(f"{home}.external").resolve(registry, name)
    return registry.get(name)


def _check_nested(value: Any, key: str, registry: Registry, key_path: str) -> None:
    if isinstance(value, ComponentSpec):
        check(value, _NESTED.get(key, registry))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_nested(item, key, registry, f"{key_path}[{index}]")
    elif key in _NESTED and value is not None:
        ComponentSpec.parse(value, key_path)  # raises: it is no section with a type


def _built(value: Any, key: str, registry: Registry) -> Any:
    if isinstance(value, ComponentSpec):
        return build(value, _NESTED.get(key, registry))
    if isinstance(value, (list, tuple)):
        return type(value)(_built(item, key, registry) for item in value)
    return value

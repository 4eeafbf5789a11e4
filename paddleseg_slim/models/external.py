"""Models and backbones that this package lacks, taken from an installed ``paddleseg``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import BACKBONES, MODELS, Registry

_PEERS = {MODELS.kind: "MODELS", BACKBONES.kind: "BACKBONES"}
"""Kind of component -> the name of its registry in ``paddleseg.cvlibs.manager``."""


def resolve_model(name: str) -> Callable[..., Any]:
    """Return the model called ``name``: ours, or that of an installed ``paddleseg``.

    Raises:
        UserError: neither has it, or the installed ``paddleseg`` cannot be imported.
    """
    return resolve(MODELS, name)


def resolve_backbone(name: str) -> Callable[..., Any]:
    """Return the backbone called ``name``; see :func:`resolve_model`."""
    return resolve(BACKBONES, name)


def resolve(registry: Registry, name: str) -> Callable[..., Any]:
    """Return the component called ``name``; one of ``paddleseg`` is registered here, so that it is ours from then on.

    Args:
        registry: ``MODELS`` or ``BACKBONES``; of others nothing is taken from ``paddleseg``.
        name: registered name.

    Raises:
        UserError: neither has it, or the installed ``paddleseg`` cannot be imported.
    """
    if name not in registry and registry.kind in _PEERS and importlib.util.find_spec("paddleseg") is not None:
        theirs = _components(_PEERS[registry.kind], f"{registry.kind} {name!r}")
        if name in theirs:
            registry.register(name)(theirs[name])
    return registry.get(name)


def _components(peer: str, wanted: str) -> dict[str, Callable[..., Any]]:
    try:
        importlib.import_module("paddleseg.models")
        manager = importlib.import_module("paddleseg.cvlibs").manager
    except (ImportError, AttributeError) as error:  # its pins are old: a dependency is absent or has moved on
        raise UserError(
            f"The {wanted} is not one of ours, and the installed paddleseg cannot be imported: {error}.",
            "Install what it lacks, or use a name of ours: paddleseg_slim.registry lists them.",
        ) from error
    return getattr(manager, peer).components_dict

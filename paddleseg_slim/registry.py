"""Registries: how a name in a YAML file or on a command line becomes a class or a function of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from paddleseg_slim.errors import UserError, nearest

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Named components of one kind.

    Args:
        kind: what the components are, for messages: ``model``, ``transform``, ``loss``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, Callable[..., Any]] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Register the decorated class or function under ``names``, or under its own name when none is given.

        Raises:
            ValueError: a name is taken already.
        """

        def add(item: T) -> T:
            for name in names or (item.__name__,):
                if name in self._items:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._items[name] = item
            return item

        return add

    def get(self, name: str) -> Callable[..., Any]:
        """Return the component called ``name``.

        Raises:
            UserError: no component has this name; the remedy names the nearest ones.
        """
        if name not in self._items:
            raise UserError(f"Unknown {self.kind} {name!r}.", nearest(str(name), self._items))
        return self._items[name]

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


MODELS = Registry("model")
BACKBONES = Registry("backbone")
LOSSES = Registry("loss")
DATASETS = Registry("dataset")
TRANSFORMS = Registry("transform")
OPTIMIZERS = Registry("optimizer")
SCHEDULERS = Registry("learning-rate schedule")
TASKS = Registry("task")

OP_MODULES = {
    "slim.fake_quant": "paddleseg_slim.quant.node",
    "slim.train_quant": "paddleseg_slim.quant.quantizers",
    "slim.log2_quant": "paddleseg_slim.quant.tables",
}
"""The module that registers the row of an op of our own, for a process that loads a graph with the op in it.

A fixed list: what a file says is never imported.
"""

"""Check and convert arguments by the signature and annotations of what they are for."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from paddleseg_slim.errors import UserError, nearest


class _Mismatch(Exception):
    """A value does not fit an annotation."""


def check_arguments(
    item: Callable[..., Any], args: Mapping[str, Any], key_path: str, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check ``args`` against the signature of ``item`` and return them converted.

    Conversions: a whole float where an int is annotated (``iters: 1e3``), 0 / 1 where a bool is, a list where a
    tuple is. A value whose annotation names a class of ours, or that is annotated ``Any`` or not at all, passes.

    Args:
        item: the class or function that will be called.
        args: what the config gives, by name.
        key_path: where in the config this stands.
        given: further arguments that the program gives itself; they are not checked for their type.

    Raises:
        UserError: an unknown, missing or wrongly typed argument, by its key path and with the nearest valid name.
    """
    parameters = inspect.signature(item).parameters
    kinds = {p.kind for p in parameters.values()}
    names = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    known = set(given or ())
    for name in args:
        if name not in names and inspect.Parameter.VAR_KEYWORD not in kinds:
            where = f"{key_path}.{name}" if key_path else name
            remedy = nearest(name, names - known) if names - known else f"{_name(item)} takes no arguments."
            raise UserError(f"{where}: unknown key for {_name(item)}.", remedy)
    for name in sorted(names - set(args) - known):
        if parameters[name].default is inspect.Parameter.empty:
            raise UserError(
                f"{key_path}.{name} is missing.", f"{_name(item)} needs it: write '{name}:' into {key_path}."
            )
    return {
        name: convert(value, parameters[name].annotation, f"{key_path}.{name}") if name in names else value
        for name, value in args.items()
    }


def _name(item: Callable[..., Any]) -> str:
    return str(getattr(item, "__name__", item))


def convert(value: Any, annotation: Any, key_path: str) -> Any:
    """Return ``value`` as the annotation wants it.

    Raises:
        UserError: it does not fit.
    """
    if annotation is inspect.Parameter.empty:
        return value
    text = annotation if isinstance(annotation, str) else _text(annotation)
    try:
        return _fit(value, ast.parse(text, mode="eval").body)
    except SyntaxError:  # the text form of an exotic annotation: nothing to check by
        return value
    except _Mismatch:
        raise UserError(f"{key_path} is {value!r}.", f"It must be of the type {text}.") from None


def _text(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    text = annotation.__name__ if plain else str(annotation)
    return text.replace("typing.", "").replace("collections.abc.", "")


def _fit(value: Any, node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp):
        return _fit_one_of(value, [node.left, node.right])
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _fit(value, ast.parse(node.value, mode="eval").body)
        return _fit_name(value, "None") if node.value is None else value
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _fit_generic(value, node.value.id, inner)
    if isinstance(node, ast.Attribute):  # a class of a library, such as nn.Layer, which no plain YAML value is
        if node.attr in _NAMES or node.attr == "Any" or not isinstance(value, _PLAIN):
            return _fit_name(value, node.attr)
        raise _Mismatch
    return _fit_name(value, node.id) if isinstance(node, ast.Name) else value


def _fit_one_of(value: Any, nodes: list[ast.expr]) -> Any:
    fitting = []
    for node in nodes:
        try:
            fitting.append(_fit(value, node))
        except _Mismatch:
            continue
    if not fitting:
        raise _Mismatch
    same = [item for item in fitting if type(item) is type(value)]  # `int | bool` leaves True a bool
    return (same or fitting)[0]


def _fit_generic(value: Any, name: str, inner: list[ast.expr]) -> Any:
    if name == "Optional":
        return None if value is None else _fit(value, inner[0])
    if name == "Union":
        return _fit_one_of(value, inner)
    if name == "Literal":
        if value not in [getattr(node, "value", value) for node in inner]:
            raise _Mismatch
        return value
    value = _fit_name(value, name)
    if name in ("dict", "Dict", "Mapping"):
        return {_fit(key, inner[0]): _fit(item, inner[1]) for key, item in value.items()}
    if name in ("tuple", "Tuple"):
        if isinstance(inner[-1], ast.Constant) and inner[-1].value is ...:
            inner = [inner[0]] * len(value)
        if len(inner) != len(value):
            raise _Mismatch
        return tuple(_fit(item, node) for item, node in zip(value, inner))
    if name in _LISTS:
        return type(value)(_fit(item, inner[0]) for item in value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _same(value: Any) -> Any:
    return value


_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))
_LISTS = ("list", "List", "Sequence", "Iterable", "Collection")

_NAMES: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "None": (lambda value: value is None, _same),
    "bool": (lambda value: isinstance(value, (bool, int)) and value in (0, 1), bool),
    "int": (_is_whole, int),
    "float": (_is_number, _same),
    "str": (lambda value: isinstance(value, str), _same),
    **dict.fromkeys(("dict", "Dict", "Mapping"), (lambda value: isinstance(value, Mapping), _same)),
    **dict.fromkeys(("tuple", "Tuple"), (_is_list, tuple)),
    **dict.fromkeys(_LISTS, (_is_list, _same)),
}
"""Name in an annotation -> whether a value fits, and how it is converted. Other names fit everything."""


def _fit_name(value: Any, name: str) -> Any:
    if name not in _NAMES:
        return value
    fits, converted = _NAMES[name]
    if not fits(value):
        raise _Mismatch
    return converted(value)

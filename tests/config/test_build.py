from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import pytest

from paddleseg_slim.config import ComponentSpec, build, check
from paddleseg_slim.config.signature import convert
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import Registry

PARTS = Registry("part")


@PARTS.register()
@dataclass
class Wheel:
    size: int
    spokes: tuple[int, ...] = (1,)
    name: str = "w"


@PARTS.register()
class Car:
    def __init__(self, wheels: Sequence[Wheel], engine: Wheel | None = None, fast: bool = False):
        self.wheels, self.engine, self.fast = wheels, engine, fast


@PARTS.register()
def anything(**options: Any) -> dict[str, Any]:
    return options


def spec(section: dict[str, Any]) -> ComponentSpec:
    return ComponentSpec.parse(section, "car")


def test_components_are_built_from_the_inside_out():
    car = build(spec({"type": "Car", "wheels": [{"type": "Wheel", "size": 2.0}, {"type": "Wheel", "size": 3}]}), PARTS)
    assert car.wheels == [Wheel(2), Wheel(3)]
    car = build(
        spec({"type": "Car", "wheels": [], "fast": 1, "engine": {"type": "Wheel", "size": 1, "spokes": [1, 2]}}), PARTS
    )
    assert car.engine == Wheel(1, (1, 2))
    assert car.fast is True


def test_what_the_program_gives_wins():
    assert build(spec({"type": "Wheel", "size": "unread"}), PARTS, size=5) == Wheel(5)
    assert build(spec({"type": "anything", "a": 1}), PARTS, b=2) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("section", "cause", "remedy"),
    [
        ({"type": "Whel"}, "car.type: Unknown part 'Whel'", "Wheel"),
        ({"type": "Wheel"}, "car.size is missing", "size:"),
        ({"type": "Wheel", "siz": 3}, "car.siz: unknown key for Wheel", "size"),
        ({"type": "Wheel", "size": "big"}, "car.size is 'big'", "int"),
        ({"type": "Wheel", "size": True}, "car.size is True", "int"),
        ({"type": "Wheel", "size": 1.5}, "car.size is 1.5", "int"),
        ({"type": "Wheel", "size": 1, "name": None}, "car.name is None", "str"),
        ({"type": "Car", "wheels": 3}, "car.wheels is 3", "Sequence"),
        ({"type": "Car", "wheels": [{"type": "Wheel", "sze": 1}]}, "car.wheels[0].sze: unknown key", "size"),
        ({"type": "Car", "wheels": [], "engine": {"type": "No"}}, "car.engine.type: Unknown part 'No'", "Car"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_built(section, cause, remedy):
    for verb in (check, build):
        with pytest.raises(UserError) as error:
            verb(spec(section), PARTS)
        assert cause in error.value.cause
        assert remedy in error.value.remedy


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (3, "int | list[int]", 3),
        ([3, 4.0], "int | list[int]", [3, 4]),
        (True, "bool | int", True),
        (1, "bool | int", 1),
        (2, "float", 2),
        (None, Optional[int], None),
        ([1, 2], Union[int, tuple[int, int]], (1, 2)),
        ("a", Literal["a", "b"], "a"),
        ({"a": 1.0}, "dict[str, int]", {"a": 1}),
        ([[1, 2]], "Sequence[Sequence[int]]", [[1, 2]]),
        ("x", "Sequence[float] | str | np.ndarray", "x"),
        ("x", "SomeAlias | None", "x"),
        (4, Any, 4),
        (4, "typing.Any", 4),
    ],
)
def test_values_that_fit(value, annotation, result):
    found = convert(value, annotation, "key")
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("3", "int | list[int]"),
        ([1, "x"], "list[int]"),
        ([1, 2, 3], "tuple[int, int]"),
        ("c", Literal["a", "b"]),
        ("x", "Sequence[float] | np.ndarray | None"),
        (3, "nn.Layer"),
        (2, "bool"),
        (float("nan"), "int"),
        (True, "float"),
        ({1: 2}, "dict[str, int]"),
        (None, int),
    ],
)
def test_values_that_do_not_fit(value, annotation):
    with pytest.raises(UserError, match="key is"):
        convert(value, annotation, "key")


def test_an_argument_that_holds_components_takes_nothing_else():
    @PARTS.register()
    def pipeline(transforms: list[Any]) -> list[Any]:
        return transforms

    for wrong, cause in (
        (["Resize"], "car.transforms[0] is 'Resize'"),
        ([{"size": 1}], "car.transforms[0] has no type"),
    ):
        with pytest.raises(UserError, match=cause.replace("[", r"\[")):
            check(spec({"type": "pipeline", "transforms": wrong}), PARTS)

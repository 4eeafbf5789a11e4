"""The file of sensitivities: what is read from it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.prune.criteria import keep_best, removal_order
from paddleseg_slim.prune.curves import Curves, GroupCurve

SCORES = np.array([0.3, 0.1, 0.4, 0.1, 0.5])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of one group, ``stem``, whose channels have the scores `SCORES`."""
    curve = GroupCurve(5, [4, 2], [0.01, 0.4], removal_order(SCORES).tolist())
    Curves("exact", "mIoU", 0.6, 8, {"stem": curve}, {"weights": "w", "data": "d"}).write(tmp_path / "curves.json")
    return tmp_path / "curves.json"


def test_the_order_keeps_the_channels_that_the_scores_keep(file: Path) -> None:
    importance = Curves.read(file).importance()
    assert importance is not None
    for width in range(1, 6):
        np.testing.assert_array_equal(keep_best(importance["stem"], width), keep_best(SCORES, width))


def test_curves_without_an_order_have_no_importance() -> None:
    assert Curves("exact", "sen.pickle", 1.0, 0, {"stem": GroupCurve(5, [4], [0.1], [])}).importance() is None


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("losses", ["x", 0.4], "stem: not all losses are finite numbers"),
        ("losses", [float("nan"), 0.4], "stem: not all losses are finite numbers"),
        ("losses", [0.4], "stem: 2 widths have 1 losses"),
        ("kept", [5, 2], "stem: not all of the widths"),
        ("kept", [4, 0], "stem: not all of the widths"),
        ("order", [0, 1, 2, 3, 3], "stem: the order is not one of 5 channels"),
        ("width", 0, "stem: the width is 0"),
        ("colour", "red", "colour"),
    ],
)
def test_a_damaged_curve_is_refused(file: Path, key: str, value: Any, text: str) -> None:
    content = json.loads(file.read_text())
    content["groups"]["stem"][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=text) as error:
        Curves.read(file, "Give a whole one.")
    assert "is damaged" in error.value.cause and error.value.remedy == "Give a whole one."


@pytest.mark.parametrize(("key", "value"), [("mode", "guess"), ("baseline", float("nan")), ("baseline", 0)])
def test_a_damaged_file_is_refused(file: Path, key: str, value: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(UserError, match=f"is damaged: the {key} is"):
        Curves.read(file)


def test_curves_of_another_model_are_refused(file: Path) -> None:
    curves = Curves.read(file)
    curves.check_groups({"stem": 5, "head": 9}, file)
    for widths, text in (({"stem": 6}, "the model has 6"), ({"head": 5}, "no such group")):
        with pytest.raises(UserError, match=text):
            curves.check_groups(widths, file)
    with pytest.raises(UserError, match="other data, weights"):
        curves.check({"weights": "v", "data": "e"}, file)

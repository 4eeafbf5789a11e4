from __future__ import annotations

import pytest

from paddleseg_slim.config.merge import parse_opts, read_with_bases, with_values
from paddleseg_slim.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "root.yml").write_text(
        "iters: 10\nmodel: {type: A, x: 1, deep: {p: 1, q: 2}}\nlist: [1, 2]\nnull_section: null\n"
    )
    (tmp_path / "_base_" / "middle.yml").write_text("_base_: root.yml\niters: 20\nmodel: {x: 2}\n")
    return tmp_path


def read(folder, text: str):
    path = folder / "config.yml"
    path.write_text(text)
    return read_with_bases(path)


def test_a_file_wins_over_its_bases_key_by_key(folder):
    data = read(folder, "_base_: ./_base_/middle.yml\nmodel: {deep: {q: 3}}\nlist: [9]\nnull_section: {a: 1}\n")
    assert data == {
        "iters": 20,
        "model": {"type": "A", "x": 2, "deep": {"p": 1, "q": 3}},
        "list": [9],
        "null_section": {"a": 1},
    }


def test_a_section_that_inherits_nothing(folder):
    data = read(
        folder, "_base_: _base_/root.yml\nmodel: {_inherited_: False, type: B, deep: {_inherited_: True, r: 1}}\n"
    )
    assert data["model"] == {"type": "B", "deep": {"r": 1}}


def test_the_first_of_several_bases_wins(folder):
    (folder / "other.yml").write_text("iters: 30\nonly: 1\n")
    data = read(folder, "_base_: [other.yml, _base_/middle.yml]\n")
    assert (data["iters"], data["only"], data["model"]["x"]) == (30, 1, 2)


def test_a_missing_base_and_a_circle_are_errors(folder):
    with pytest.raises(UserError, match=r"config.yml: _base_ names no.yml"):
        read(folder, "_base_: no.yml\n")
    with pytest.raises(UserError, match="its own _base_"):
        read(folder, "_base_: config.yml\n")
    with pytest.raises(UserError, match="_base_ holds 3"):
        read(folder, "_base_: [3]\n")


def test_values_at_key_paths():
    data = {"a": {"b": [{"type": "X"}, {"type": "Y"}]}, "c": 1}
    result = with_values(data, {"a.b.1.type": "Z", "a.b[0].size": 3, "c": 2, "new.key": 5}, sections=["new"])
    assert result == {"a": {"b": [{"type": "X", "size": 3}, {"type": "Z"}]}, "c": 2, "new": {"key": 5}}
    assert data == {"a": {"b": [{"type": "X"}, {"type": "Y"}]}, "c": 1}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.b.2.type", "no item '2' in a list of 2"),
        ("a.x.y", "no 'x' to go into"),
        ("c.d", "'d' stands below 1"),
        ("other.key", "no 'other' to go into"),
    ],
)
def test_a_key_path_into_nothing_is_an_error(path, message):
    with pytest.raises(UserError, match=message):
        with_values({"a": {"b": [1, 2]}, "c": 1}, {path: 1})


def test_opts_are_split_at_the_first_equals_sign():
    assert parse_opts(["a.b=1", " c = x=y"]) == {"a.b": 1, "c": "x=y"}
    for broken in ("a.b", "=1"):
        with pytest.raises(UserError, match="--opts got"):
            parse_opts([broken])

from __future__ import annotations

import math

import pytest

from paddleseg_slim.config.yaml_file import read_mapping, read_value
from paddleseg_slim.errors import UserError


def write(tmp_path, text: str):
    path = tmp_path / "config.yml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2E+3", -2000.0),
        ("4.0e-5", 4e-5),
        ("1.e5", 1e5),
        ("12", 12),
        ("None", None),
        ("none", None),
        ("Null", None),
        ("'None'", "None"),
        ("Nonesuch", "Nonesuch"),
        ("1e", "1e"),
        ("True", True),
        ("[1, 1e2]", [1, 100.0]),
    ],
)
def test_scalars_are_what_paddleseg_users_mean(tmp_path, text, value):
    found = read_mapping(write(tmp_path, f"key: {text}"))["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.75,1.0,1.25", [0.75, 1.0, 1.25]),
        ("(1,2)", [1, 2]),
        ("[512, 512]", [512, 512]),
        ("true", True),
        ("True", True),
        ("none", None),
        ("1e-3", 1e-3),
        ("data/a=b", "data/a=b"),
        ("HRNet_W18", "HRNet_W18"),
        ("{a: 1}", {"a": 1}),
        ("", None),
        ("[broken", "[broken"),
    ],
)
def test_values_of_the_command_line(text, value):
    assert read_value(text) == value


def test_a_duplicate_key_is_named_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"line 4.*'iters' stands twice"):
        read_mapping(write(tmp_path, "iters: 1\nmodel:\n  type: UNet\niters: 2\n"))
    with pytest.raises(UserError, match=r"line 3.*'type' stands twice"):
        read_mapping(write(tmp_path, "model:\n  type: UNet\n  type: FCN\n"))


def test_a_merge_key_is_no_duplicate(tmp_path):
    data = read_mapping(write(tmp_path, "a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n"))
    assert data["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: [1", "line"),
        ("- 1\n- 2", "is a list, not a mapping"),
        ("", "is empty, not a mapping"),
        ("? [a]\n: 1", "unhashable"),
    ],
)
def test_what_is_no_config_is_an_error(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_mapping(write(tmp_path, text))


def test_missing_file_folder_and_binary_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_mapping(tmp_path / "no.yml")
    with pytest.raises(UserError, match="is a directory"):
        read_mapping(tmp_path)
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="not a YAML text"):
        read_mapping(binary)


def test_infinity_stays_a_float(tmp_path):
    assert math.isinf(read_mapping(write(tmp_path, "a: .inf"))["a"])

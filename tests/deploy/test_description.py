from __future__ import annotations

import pytest
import yaml

from paddleseg_slim.deploy.description import Deploy, read_deploy, write_deploy
from paddleseg_slim.errors import UserError

FULL = Deploy(
    "model.json",
    "model.pdiparams",
    [{"type": "Resize", "target_size": [512, 256]}, {"type": "Normalize", "mean": [0.5], "std": [0.5]}],
    [-1, 3, 256, 512],
    "softmax",
    "float32",
    2,
    ["Hintergrund", "视盘"],
)


@pytest.fixture
def folder(tmp_path):
    for name in ("model.json", "model.pdiparams", "model.pdmodel", "model.onnx"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_description_survives_its_file(folder):
    path = write_deploy(folder, FULL)
    assert read_deploy(path) == (FULL, folder)
    assert read_deploy(folder) == (FULL, folder)
    assert write_deploy(folder, FULL, "inference.yml").name == "inference.yml"


def test_paddleseg_finds_its_keys(folder):
    section = yaml.safe_load(write_deploy(folder, FULL).read_text(encoding="utf-8"))["Deploy"]
    assert {key: section[key] for key in ("model", "params", "output_op", "output_dtype")} == {
        "model": "model.json",
        "params": "model.pdiparams",
        "output_op": "softmax",
        "output_dtype": "float32",
    }
    assert section["transforms"][0] == {"type": "Resize", "target_size": [512, 256]}


@pytest.mark.parametrize(
    ("section", "output_op", "shape"),
    [
        ("{model: model.pdmodel, params: model.pdiparams, transforms: [{type: Normalize}]}", "argmax", []),
        ("{model: model.pdmodel, params: model.pdiparams, output_dtype: float32}", "none", []),
        (
            "{model: model.json, params: model.pdiparams, output_op: none, input_shape: [null, 3, 8]}",
            "none",
            [-1, 3, 8],
        ),
        ("{model: model.json, params: model.pdiparams, output_op: 'none'}", "none", []),
    ],
)
def test_descriptions_that_paddleseg_wrote(folder, section, output_op, shape):
    (folder / "deploy.yaml").write_text(f"Deploy: {section}")
    deploy, _ = read_deploy(folder)
    assert (deploy.output_op, deploy.input_shape) == (output_op, shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Global: {}", "no section Deploy"),
        ("Deploy: {model: other.json, params: model.pdiparams}", "names other.json, which is not in"),
        ("Deploy: {modle: model.json}", "Deploy.modle: unknown key"),
        ("Deploy: {output_op: sigmoid}", "output_op is 'sigmoid'"),
        ("Deploy: {transforms: Normalize}", "transforms is 'Normalize'"),
    ],
)
def test_what_is_wrong_is_named(folder, text, message):
    (folder / "deploy.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_deploy(folder)


def test_a_missing_description(tmp_path):
    with pytest.raises(UserError, match=r"deploy\.yaml does not exist"):
        read_deploy(tmp_path)


def test_no_description_names_a_file_that_was_not_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.json, which is not there"):
        write_deploy(tmp_path, FULL)
    assert list(tmp_path.iterdir()) == []

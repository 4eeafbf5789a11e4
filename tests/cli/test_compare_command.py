"""The real command: models compared on the same images."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper
from safetensors.numpy import load_file, save_file

from paddleseg_slim.cli.evaluation import check_described
from paddleseg_slim.cli.main import main
from paddleseg_slim.config import load_config
from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks import build_task

CONFIG = "configs/fashion/fastscnn_fashion5_128x128.yml"
WEIGHTS = "configs/fashion/weights/fastscnn_fashion5_128x128/model.safetensors"


def test_a_damaged_model_is_worse_and_a_copy_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(WEIGHTS)
    rng = np.random.default_rng(0)
    noisy = {
        name: value + (0.3 * value.std() * rng.standard_normal(value.shape)).astype(value.dtype)
        if name.endswith("weight") and value.ndim == 4
        else value
        for name, value in weights.items()
    }
    save_file(noisy, tmp_path / "noisy.safetensors")
    argv = ["compare", "--config", CONFIG, "--opts", "test_dataset.num_samples=24", "--threads", "1", "--models"]
    argv += [f"start={WEIGHTS}", f"copy={WEIGHTS}", f"noisy={tmp_path / 'noisy.safetensors'}"]
    assert main([*argv, "--json", str(tmp_path / "result.json")]) == 0
    start, copy, damaged = json.loads((tmp_path / "result.json").read_text())["models"]
    assert start["values"]["mIoU"] > 0.5 and start["images"] == 24
    assert copy["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert damaged["difference"]["high"] < 0
    assert "no difference" in capsys.readouterr().out


def test_one_model_is_not_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--config", CONFIG, "--models", f"a={WEIGHTS}"]) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert main(["compare", "--config", CONFIG, "--models", f"a={WEIGHTS}", "b=missing.onnx"]) == 2
    assert main(["compare", "--config", CONFIG, "--models", f"={WEIGHTS}", f"b={WEIGHTS}"]) == 2
    assert "has no name" in capsys.readouterr().err


def test_what_a_file_says_of_itself_has_to_be_what_the_config_says(tmp_path: Path) -> None:
    """Else the images are prepared in one way for the file, and in another for what it is compared with."""
    task = build_task(load_config(CONFIG))
    path = tmp_path / "model.onnx"
    transforms = [dict(transform) for transform in task.preprocess().describe()["transforms"]]
    told = {"class_names": task.class_names(), "transforms": transforms}
    for changed, match in (({}, ""), ({"class_names": ["a", "b"]}, "class_names"), ({"transforms": []}, "transforms")):
        model = helper.make_model(helper.make_graph([], "g", [], []))
        helper.set_model_props(model, {key: json.dumps(value) for key, value in {**told, **changed}.items()})
        onnx.save(model, path)
        described = yaml.safe_dump({"Deploy": json.loads(json.dumps({**told, **changed}))})
        (tmp_path / "deploy.yaml").write_text(described if changed else "Deploy: {class_names: [x]}", encoding="utf-8")
        with pytest.raises(UserError, match=match) if changed else contextlib.nullcontext():
            check_described(path, task)  # by its metadata, whatever lies beside it
        if changed:
            with pytest.raises(UserError, match=match):
                check_described(tmp_path, task)  # by deploy.yaml, as any exported folder
    (tmp_path / "deploy.yaml").unlink()
    check_described(tmp_path, task)  # it says nothing

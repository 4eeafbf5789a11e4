"""A compressed model is given by its folder ``graph/`` or by the folder of the result that holds it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny

from paddleseg_slim.cli import setup
from paddleseg_slim.cli.deployable import export_with_onnx
from paddleseg_slim.cli.main import main
from paddleseg_slim.config import load_config
from paddleseg_slim.deploy.description import read_deploy
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture, save
from paddleseg_slim.tasks import build_task


def test_the_folder_of_a_result_stands_for_the_graph_in_it(tmp_path: Path) -> None:
    task = build_task(load_config(tiny.write_config(tmp_path)))
    model = capture(task.build_model(), task.input_spec(), verify=False, fixed_size=(32, 32))
    model.eval()
    save(model, tmp_path / "pruned" / "graph")
    image = paddle.rand([1, 3, 32, 32])
    for given in ("pruned", "pruned/graph"):
        assert setup.saved_graph(str(tmp_path / given)) == tmp_path / "pruned" / "graph"
        loaded = setup.load_model(task, str(tmp_path / given))
        loaded.eval()
        np.testing.assert_array_equal(loaded(image)[0].numpy(), model(image)[0].numpy())
    assert setup.saved_graph(str(tmp_path)) is None
    with pytest.raises(UserError, match="is a folder"):
        setup.load_model(task, str(tmp_path))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model, ONNX file included, and ``tiny.yml`` and ``a.png`` beside its folder."""
    folder = tmp_path_factory.mktemp("exported")
    config = tiny.write_config(folder)
    (folder / "a.png").write_bytes(b"x")
    flags = ["--config", str(config), "--from_scratch", "--onnx", "--save_dir", str(folder / "model")]
    assert main(["export", *flags]) == 0
    return folder


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        *((verb, "") for verb in ("predict", "val", "prune", "quant", "post_quant", "train")),
        *(("predict", name) for name in ("model.json", "model.pdiparams", "model.onnx")),
    ],
)
def test_an_exported_model_is_refused_with_what_it_is_for(
    verb: str, given: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported / "model" / given
    flags = ["--config", str(exported / "tiny.yml"), "--model_path", str(path), "--threads", "1"]
    flags += [] if verb == "val" else ["--save_dir", str(tmp_path / "out")]
    flags += ["--image_path", str(exported / "a.png")] if verb == "predict" else []
    flags += ["--pruning_ratio", "0.3", "--retraining_iters", "2"] if verb == "prune" else []
    flags += ["--retraining_iters", "2"] if verb == "quant" else []
    capsys.readouterr()
    assert main([verb, *flags]) == 2
    cause, remedy = capsys.readouterr().err.strip().splitlines()
    assert cause.startswith(f"Error: {path} is an exported model, neither weights")
    assert "Give what it was exported from" in remedy and "paddleseg-slim infer (deploy/python/infer.py)" in remedy


def test_a_folder_with_weights_is_no_exported_model(exported: Path, tmp_path: Path) -> None:
    for name in ("model.json", "model.pdiparams"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "model.pdparams").write_bytes(b"x")
    task = build_task(load_config(exported / "tiny.yml"))
    with pytest.raises(UserError, match="is a folder") as error:
        setup.load_model(task, str(tmp_path))
    assert error.value.remedy == f"Give {tmp_path / 'model.pdparams'}."


def measured_shape(folder: Path, out: Path) -> list[int]:
    flags = ["--engine", "onnxruntime", "--warmup", "1", "--repeats", "2", "--max_repeats", "2", "--threads", "1"]
    assert main(["bench", str(folder), *flags, "--save_dir", str(out)]) == 0
    shape: list[int] = json.loads((out / "stage.json").read_text())["latency"][0]["input_shape"]
    return shape


def test_a_result_is_described_and_measured_as_its_export_is(tmp_path: Path) -> None:
    """The graph of a result takes any size; the size that its description tells is the config's."""
    pytest.importorskip("onnxruntime")
    config = tiny.write_config(tmp_path, export={"input_shape": [None, 3, 64, 96]})
    loaded = load_config(config)
    task = build_task(loaded)
    model = capture(task.build_model(), task.input_spec(), verify=False, fixed_size=(32, 32))
    save(model, tmp_path / "result" / "graph")
    export_with_onnx(model, tmp_path / "result", task, loaded, task.output_op())
    flags = ["--config", str(config), "--model_path", str(tmp_path / "result"), "--onnx"]
    assert main(["export", *flags, "--save_dir", str(tmp_path / "exported")]) == 0
    result, exported = (read_deploy(tmp_path / name)[0] for name in ("result", "exported"))
    assert result == exported and result.input_shape == [-1, 3, 64, 96]
    for name in ("result", "exported"):
        assert measured_shape(tmp_path / name, tmp_path / f"{name}_times") == [1, 3, 64, 96]
    unsaid = replace(loaded, export={})
    assert export_with_onnx(model, tmp_path / "any", task, unsaid, "none").deploy.input_shape == [-1, 3, -1, -1]

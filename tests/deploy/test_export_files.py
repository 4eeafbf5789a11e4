from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from scipy import special

from paddleseg_slim.deploy.description import read_deploy
from paddleseg_slim.deploy.export import check_shapes, export, parse_shape
from paddleseg_slim.deploy.head import relative_error, with_head
from paddleseg_slim.deploy.metadata import read_metadata, told_by
from paddleseg_slim.deploy.prepare import add_onnx
from paddleseg_slim.deploy.runtimes import load
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture
from paddleseg_slim.models.hrnet import HRNet

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/fashion/pp_humanseg_lite_fashion5_128x128.yml"


class Net(nn.Layer):
    """Two heads, the second one only for training; a stride of 8 is baked in by its sum of two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(*(nn.Conv2D(3 if i == 0 else 4, 4, 3, stride=2, padding=1) for i in range(3)))
        self.bn = nn.BatchNorm2D(4)
        self.up = nn.Conv2DTranspose(4, 5, 8, stride=8)
        self.skip = nn.Conv2D(3, 5, 1)
        self.aux = nn.Conv2D(4, 5, 1)

    def forward(self, x):
        deep = nn.functional.relu(self.bn(self.down(x)))
        return [self.up(deep) + self.skip(x), self.aux(deep)]


@pytest.fixture(scope="module")
def net() -> Net:
    paddle.seed(0)
    model = Net()
    model.eval()
    return model


def first(outputs):
    return outputs[0]


@pytest.mark.parametrize("output_op", ["argmax", "softmax", "none"])
def test_the_file_gives_what_the_model_gives(net, tmp_path, output_op):
    result = export(net, tmp_path, logits=first, output_op=output_op, class_names=list("abcde"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deploy.yaml", "model.json", "model.pdiparams"]
    deploy, folder = read_deploy(tmp_path)
    assert deploy == result.deploy
    runtime = load(folder / deploy.model, "paddle")
    for shape in ((1, 3, 8, 16), (3, 3, 40, 24)):
        images = np.random.default_rng(1).standard_normal(shape, np.float32)
        logits = net(paddle.to_tensor(images))[0].numpy()
        output = runtime.run({runtime.inputs[0].name: images})[0]
        assert str(output.dtype) == deploy.output_dtype
        if output_op == "argmax":
            np.testing.assert_array_equal(output, logits.argmax(1))
        else:
            expected = special.softmax(logits, axis=1) if output_op == "softmax" else logits
            np.testing.assert_allclose(output, expected, atol=1e-5)


def test_a_head_that_is_not_exported_is_gone(net):
    layer = capture(net, [paddle.static.InputSpec([None, 3, None, None], "float32", "img")])
    names = {name for name, _ in with_head(layer, first, "argmax").tensors()}
    assert "skip.weight" in names and not any(name.startswith("aux") for name in names)
    assert {name for name, _ in layer.tensors()} >= names | {"aux.weight", "aux.bias"}
    assert len(layer.eval_graph.output_values()) == 2


def test_a_fixed_shape_and_the_names_of_fastdeploy(net, tmp_path):
    result = export(net, tmp_path, logits=first, shape=(1, 3, 16, 24), for_fd=True)
    assert result.files == ("inference.json", "inference.pdiparams", "inference.yml")
    deploy, folder = read_deploy(tmp_path)
    assert (deploy.model, deploy.input_shape) == ("inference.json", [1, 3, 16, 24])
    assert load(folder / deploy.model, "paddle").inputs[0].shape == (1, 3, 16, 24)


def test_a_size_is_described_of_a_file_that_takes_any(net, tmp_path):
    deploy = export(net, tmp_path, logits=first, shape=(-1, 3, -1, 24), described=(1, 3, 16, 99)).deploy
    assert deploy.input_shape == [1, 3, 16, 24]  # a length that the file fixes is told as it is
    runtime = load(tmp_path / deploy.model, "paddle")
    assert runtime.inputs[0].shape == (-1, 3, -1, 24)
    assert runtime(np.zeros((2, 3, 40, 24), np.float32))[0].shape == (2, 40, 24)


def test_a_sum_of_many_resized_branches_at_a_fixed_shape(tmp_path):
    """Paddle Inference fuses such sums with their ReLU into a kernel of oneDNN that gives other numbers."""
    paddle.seed(0)
    widths, ones = (8, 16, 32, 64), (1, 1, 1, 1)
    model = HRNet(
        stage1_num_blocks=ones[:1],
        stage1_num_channels=widths[:1],
        stage2_num_blocks=ones[:2],
        stage2_num_channels=widths[:2],
        stage3_num_modules=1,
        stage3_num_blocks=ones[:3],
        stage3_num_channels=widths[:3],
        stage4_num_modules=1,
        stage4_num_blocks=ones,
        stage4_num_channels=widths,
    )
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.set_value(paddle.randn(weight.shape) * (2 / np.prod(weight.shape[1:])) ** 0.5)
    assert export(model, tmp_path, logits=first, shape=(1, 3, 32, 32), output_op="none").error < 1e-4


def test_the_onnx_file_beside_the_names_of_fastdeploy_is_described(net, tmp_path):
    onnx = pytest.importorskip("onnx")
    result = export(net, tmp_path, logits=first, transforms=[{"type": "Normalize"}], class_names="abcde", for_fd=True)
    path = add_onnx(tmp_path, result.layer)
    assert [file.name for file in tmp_path.glob("*.y*ml")] == ["inference.yml"]
    assert read_deploy(tmp_path)[0] == replace(result.deploy, onnx="model.onnx")
    metadata = read_metadata(onnx.load(str(path)))
    assert (metadata["class_names"], metadata["preprocess_mean"]) == (list("abcde"), "0.5 0.5 0.5")
    path.unlink()
    assert told_by(tmp_path)["class_names"] == list("abcde")


@pytest.mark.parametrize("old", [{}, {"for_fd": True}, {"file_format": "pdmodel"}])
def test_an_export_over_another_leaves_none_of_its_files(net, tmp_path, old):
    pytest.importorskip("onnx")
    add_onnx(tmp_path, export(net, tmp_path, logits=first, **old).layer)
    (tmp_path / "model.onnx.data").write_bytes(b"old")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    result = export(net, tmp_path, logits=first, output_op="none")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*result.files, "notes.txt"])
    assert read_deploy(tmp_path)[0] == result.deploy


def test_an_export_that_fails_leaves_the_one_before(net, tmp_path, monkeypatch):
    from paddleseg_slim.deploy import export as module

    pytest.importorskip("onnx")
    add_onnx(tmp_path, export(net, tmp_path, logits=first).layer)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(module, "tolerance", lambda references: -1.0)
    with pytest.raises(RuntimeError, match="differs from the model"):
        export(net, tmp_path, logits=first, output_op="none")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_kill_while_files_are_replaced_leaves_none_of_the_old_ones(net, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    add_onnx(tmp_path, export(net, tmp_path, logits=first).layer)
    put = os.replace

    def killed(source, target):
        if Path(target).parent == tmp_path:
            raise KeyboardInterrupt
        put(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export(net, tmp_path, logits=first)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_the_model_cannot_take_is_refused_with_the_next_one(net, tmp_path):
    with pytest.raises(UserError) as error:
        export(net, tmp_path / "new", logits=first, shape=(1, 3, 20, 30))
    assert "does not run at 20x30" in error.value.cause
    assert "24x32" in error.value.remedy
    assert not (tmp_path / "new").exists()


def test_an_exported_model_is_not_exported_again(net, tmp_path):
    from paddleseg_slim.graph import load as load_graph

    export(net, tmp_path, logits=first)
    with pytest.raises(UserError, match="not logits"):
        export(load_graph(tmp_path / "model.json"), tmp_path / "again", logits=first)


def test_a_file_that_differs_leaves_nothing(net, tmp_path, monkeypatch):
    from paddleseg_slim.deploy import export as module

    monkeypatch.setattr(module, "tolerance", lambda references: -1.0)  # nothing can be as good as this
    with pytest.raises(RuntimeError, match="differs from the model"):
        export(net, tmp_path, logits=first)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing_and_is_no_fault_of_the_user(tmp_path):
    """Paddle's writer says nothing of it: the file is cut."""
    pytest.importorskip("resource")
    code = (
        "import resource, sys; from paddleseg_slim.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); sys.exit(main(sys.argv[1:]))"
    )
    flags = ["export", "--config", CONFIG, "--from_scratch", "--save_dir", str(tmp_path / "out")]
    ended = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "room" in ended.stderr, ended.stderr
    assert not list(tmp_path.iterdir())


def test_relative_error():
    logits = np.array([[[0.0, 1.0], [2.0, 2.0]], [[1.0, 1.0], [-2.0, 0.0]]], np.float32)[None].reshape(1, 4, 2)
    best = logits.argmax(1)
    assert relative_error(logits, best, "argmax") == 0
    wrong = best.copy()
    wrong[0, 0] = 3
    assert relative_error(logits, wrong, "argmax") == pytest.approx(1.0)
    assert relative_error(logits, logits + 0.4, "none") == pytest.approx(0.1)
    assert relative_error(logits, special.softmax(logits, axis=1) + 0.01, "softmax") == pytest.approx(0.01, rel=1e-3)
    assert relative_error(logits, logits * np.nan, "none") == float("inf")
    assert relative_error(logits, best + 9, "argmax") == float("inf")
    assert relative_error(logits, logits[:, :2], "none") == float("inf")


def test_shapes():
    assert parse_shape(None) == (-1, 3, -1, -1)
    assert parse_shape([512, 1024]) == (-1, 3, 512, 1024)
    assert parse_shape([1, 3, None, 0]) == (1, 3, -1, -1)
    for wrong in ([1, 2, 3], [1, 4, 8, 8]):
        with pytest.raises(UserError, match="input shape"):
            parse_shape(wrong)
    assert check_shapes((1, 3, 8, 8)) == [(1, 3, 8, 8)]
    assert check_shapes((-1, 3, -1, 64)) == [(1, 3, 128, 64), (2, 3, 256, 64)]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "export.py", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command(tmp_path):
    folder = tmp_path / "model"
    done = command(
        "--config", CONFIG, "--from_scratch", "--save_dir", str(folder), "--input_shape", "1", "3", "64", "96"
    )
    assert done.returncode == 0, done.stderr
    assert "The inference model is saved in" in done.stdout + done.stderr
    deploy, _ = read_deploy(folder)
    assert deploy.class_names[:2] == ["background", "top"]
    assert deploy.transforms == [{"type": "Normalize", "mean": [0.5], "std": [0.5]}]
    assert (deploy.output_op, deploy.input_shape) == ("argmax", [1, 3, 64, 96])
    stage = json.loads((folder / "stage.json").read_text())
    assert stage["kind"] == "export" and stage["macs"] > 0
    assert set(stage["files"]) == {"model.json", "model.pdiparams", "deploy.yaml"}
    again = command("--config", CONFIG, "--from_scratch", "--save_dir", str(folder))
    assert again.returncode == 2 and "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ((), "No --model_path"),
        (("--from_scratch", "--output_op", "argmax", "--with_softmax"), "Several output operations"),
        (("--model_path", "nowhere.pdparams"), "nowhere.pdparams"),
    ],
)
def test_the_command_refuses(tmp_path, arguments, cause):
    done = command("--config", CONFIG, "--save_dir", str(tmp_path / "model"), *arguments)
    assert done.returncode == 2
    assert cause in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()


def test_a_saved_graph_is_exported_without_its_class(net, tmp_path):
    from paddleseg_slim import graph

    graph.save(capture(net, [paddle.static.InputSpec([None, 3, None, None], "float32", "img")]), tmp_path / "graph")
    result = export(graph.load(tmp_path / "graph"), tmp_path / "out", logits=first, output_op="none")
    images = np.random.default_rng(2).standard_normal((1, 3, 16, 16), np.float32)
    output = load(tmp_path / "out" / result.deploy.model, "paddle")(images)[0]
    np.testing.assert_allclose(output, net(paddle.to_tensor(images))[0].numpy(), atol=1e-5)


def test_an_export_needs_no_data(tmp_path):
    quick_start = ROOT / "configs" / "quick_start" / "pp_humanseg_lite_optic_disc_512x512_1k.yml"
    done = subprocess.run(
        [sys.executable, str(ROOT / "export.py"), "--config", str(quick_start), "--from_scratch", "--save_dir", "model",
         "--input_shape", "64", "64"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    deploy, _ = read_deploy(tmp_path / "model")
    assert deploy.class_names == ["background", "optic disc"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

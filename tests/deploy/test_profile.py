from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_files import conv_net

from paddleseg_slim.cli.main import main
from paddleseg_slim.deploy.description import Deploy, default_shape, write_deploy
from paddleseg_slim.deploy.onnx_cost import onnx_costs
from paddleseg_slim.deploy.profile import profile_model
from paddleseg_slim.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("profile")
    return {
        "float": conv_net(folder / "float.onnx", width=16, layers=3),
        "int8": conv_net(folder / "int8.onnx", width=16, layers=3, quantized=True),
    }


def test_costs_by_hand(files) -> None:
    costs = {cost.name: cost for cost in onnx_costs(files["float"], (2, 3, 20, 30))}
    assert costs["conv0"].macs == 2 * 16 * 20 * 30 * 3 * 9 and costs["conv1"].macs == 2 * 16 * 20 * 30 * 16 * 9
    pixels = 2 * 20 * 30
    assert costs["conv1"].bytes == 4 * (pixels * 16 + 16 * 16 * 9 + 16 + pixels * 16)
    assert costs["relu0"].macs == 0 and costs["relu0"].bytes == 4 * 2 * pixels * 16
    with pytest.raises(UserError, match="not \\[2, 4, 20, 30\\]"):
        onnx_costs(files["float"], (2, 4, 20, 30))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_every_convolution_is_found_by_its_name(files, engine: str, kind: str) -> None:
    """Engines fuse and rename nodes; rows have the names and costs of the file."""
    profile = profile_model(files[kind], engine, input_shape=(1, 3, 24, 24), threads=1, warmup=1, runs=3)
    rows = {node.name: node for node in profile.nodes}
    for name, channels in (("conv0", 3), ("conv1", 16), ("conv2", 16)):
        assert rows[name].macs == 16 * 24 * 24 * channels * 9
        assert rows[name].intensity == rows[name].macs / rows[name].bytes
    assert [node.ms for node in profile.nodes] == sorted((node.ms for node in profile.nodes), reverse=True)
    assert sum(node.share for node in profile.nodes) == pytest.approx(1.0)


def test_engine_that_does_not_tell(files) -> None:
    with pytest.raises(UserError, match="paddle does not tell"):
        profile_model(files["float"], "paddle")


def test_command(files, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paddleseg_slim.cli.main", "profile", str(files["float"])]
    flags = ["--input_shape", "16", "16", "--threads", "1", "--runs", "2", "--top", "2", "--save_dir", str(tmp_path)]
    result = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "more" in result.stdout and "GMACs/s" in result.stdout
    assert f"The profile is saved in {tmp_path}" in result.stdout
    data = json.loads((tmp_path / "profile.json").read_text())
    assert {"conv0", "conv1", "conv2"} <= {row["name"] for row in data["nodes"]} and data["runs"] == 2
    assert (tmp_path / "profile.png").stat().st_size > 5000


def fixed(source: Path, target: Path, *sides: int) -> Path:
    """The file with the first input at lengths of its own, 0 for any."""
    model = onnx.load(str(source))
    for side, length in zip(model.graph.input[0].type.tensor_type.shape.dim, sides):
        if length:
            side.dim_value = length
    onnx.save(model, str(target))
    return target


def profiled_shape(capsys, model: Path, folder: Path, *flags: str) -> list[int]:
    """The input shape that the command measures."""
    code = main(["profile", str(model), "--threads", "1", "--runs", "1", "--save_dir", str(folder), *flags])
    assert code == 0, capsys.readouterr().err
    return json.loads((folder / "profile.json").read_text())["input_shape"]


def test_the_shape_is_that_of_the_model(files, tmp_path: Path, capsys) -> None:
    fixed(files["float"], tmp_path / "model.onnx", 0, 3, 24, 0)
    assert default_shape(tmp_path, tmp_path / "model.onnx") == (1, 3, 24, 512)
    write_deploy(tmp_path, Deploy(onnx="model.onnx", input_shape=[2, 3, 999, 40]), "inference.yml")
    assert profiled_shape(capsys, tmp_path, tmp_path / "out") == [2, 3, 24, 40]  # the file's own lengths count
    assert profiled_shape(capsys, tmp_path, tmp_path / "out", "--input_shape", "24", "16") == [2, 3, 24, 16]
    assert profiled_shape(capsys, tmp_path, tmp_path / "out", "--input_shape", "1", "3", "24", "8") == [1, 3, 24, 8]
    flat = onnx.load(str(files["float"]))
    del flat.graph.input[0].type.tensor_type.shape.dim[2:]
    onnx.save(flat, str(tmp_path / "flat.onnx"))
    assert default_shape(files["float"], tmp_path / "flat.onnx") == (1, 3)


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("-1", "-1"), "--input_shape is -1 -1"),
        (("1", "3", "0", "8"), "--input_shape is 1 3 0 8"),
        (("3", "8", "8"), "--input_shape has 3 numbers"),
    ],
)
def test_a_shape_that_no_run_has_is_refused_first(tmp_path: Path, capsys, flags, cause: str) -> None:
    assert main(["profile", str(tmp_path / "nowhere"), "--input_shape", *flags]) == 2
    assert cause in capsys.readouterr().err


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello")
    for flags in ((), ("--input_shape", "1", "3", "8", "8")):
        assert main(["profile", str(tmp_path), *flags]) == 2
        assert "model.onnx" in capsys.readouterr().err


def test_a_benchmark_takes_the_shape_of_the_file(files, tmp_path: Path, capsys) -> None:
    """A file of one size without a description beside it."""
    file = fixed(files["float"], tmp_path / "model.onnx", 1, 3, 24, 40)
    flags = ["--engine", "onnxruntime", "--warmup", "1", "--repeats", "2", "--max_repeats", "2", "--threads", "1"]
    code = main(["bench", str(file), *flags, "--save_dir", str(tmp_path / "out")])
    assert code == 0, capsys.readouterr().err
    stage = json.loads((tmp_path / "out" / "stage.json").read_text())
    assert {tuple(row["input_shape"]) for row in stage["latency"]} == {(1, 3, 24, 40)}

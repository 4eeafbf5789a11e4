from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_files import conv_net

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
    data = json.loads((tmp_path / "profile.json").read_text())
    assert {"conv0", "conv1", "conv2"} <= {row["name"] for row in data["nodes"]} and data["runs"] == 2
    assert (tmp_path / "profile.png").stat().st_size > 5000

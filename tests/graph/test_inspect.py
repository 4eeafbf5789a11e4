"""`paddleseg-slim inspect`, started as users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

COMMAND = [sys.executable, "-c", "import sys; from paddleseg_slim.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def test_a_table_a_picture_and_numbers(tmp_path: Path) -> None:
    picture, numbers = tmp_path / "graph.svg", tmp_path / "graph.json"
    options = ["--input_shape", "64", "96", "--svg", str(picture), "--json", str(numbers)]
    result = subprocess.run(
        [*COMMAND, "inspect", "pp_humanseg_lite", *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "GMACs" in result.stdout and "conv2d" in result.stdout
    data = json.loads(numbers.read_text())
    assert data["macs"] == sum(node["macs"] for node in data["nodes"]) > 0
    root = ElementTree.parse(picture).getroot()
    texts = " ".join("".join(element.itertext()) for element in root.iter())
    assert all(node["op"] in texts for node in data["nodes"] if node["op"] in ("conv2d", "concat", "bilinear_interp"))


def test_no_model_is_an_error_of_the_user(tmp_path: Path) -> None:
    result = subprocess.run([*COMMAND, "inspect", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "holds no model" in result.stderr and "Traceback" not in result.stderr

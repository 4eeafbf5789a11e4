"""The C++ program in examples/cpp_onnxruntime: it builds without a warning and gives the mask that Python gives."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
from paddle import nn
from PIL import Image
from tiny import ROOT

from paddleseg_slim.deploy.export import export
from paddleseg_slim.deploy.infer import Predictor
from paddleseg_slim.deploy.metadata import plain_preprocessing
from paddleseg_slim.deploy.prepare import add_onnx
from paddleseg_slim.deploy.runtimes import RuntimeOptions

SOURCE = ROOT / "examples" / "cpp_onnxruntime"
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
RESIZE = {"type": "Resize", "target_size": [48, 40], "keep_ratio": False, "interp": "LINEAR"}


def run(*line: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("cmake or a C++ compiler is missing")
    build = tmp_path_factory.mktemp("build")
    configured = run("cmake", "-S", SOURCE, "-B", build, "-DCMAKE_CXX_FLAGS=-Werror")
    missing = re.search(r"(ONNX Runtime|stb) was not found", configured.stderr)
    if missing:
        pytest.skip(f"{missing[0]}; set ONNXRUNTIME_ROOT and STB_ROOT")
    assert configured.returncode == 0, configured.stderr
    built = run("cmake", "--build", build)
    assert built.returncode == 0, built.stdout + built.stderr
    return build / "segment"


class Small(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2D(8, 5, 3, padding=1))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return [self.body(x)]


@pytest.mark.parametrize("transforms", [[NORMALIZE], [RESIZE, NORMALIZE], []], ids=["as it is", "resized", "none"])
@pytest.mark.parametrize("output_op", ["argmax", "none"])
def test_the_mask_is_python_s(program: Path, transforms: list, output_op: str, tmp_path: Path) -> None:
    paddle.seed(3)
    result = export(
        Small(),
        tmp_path,
        logits=lambda outputs: outputs[0],
        output_op=output_op,
        transforms=transforms,
        class_names=["a", "b", "c", "d", "e"],
    )
    add_onnx(tmp_path, result.layer)
    rough = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    picture = np.asarray(Image.fromarray(rough).resize((104, 72), Image.Resampling.BILINEAR))
    Image.fromarray(picture).save(tmp_path / "picture.png")
    done = run(program, tmp_path / "model.onnx", tmp_path / "picture.png", tmp_path / "mask.png", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"median of 1 runs: \d+\.\d\d ms", done.stdout)
    assert '["a", "b", "c", "d", "e"]' in done.stdout
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    predictor = Predictor(tmp_path, "onnxruntime", RuntimeOptions(threads=1))
    (expected,) = predictor.predict([picture])
    assert mask.shape == expected.shape == (72, 104)
    assert len(np.unique(expected)) >= 3
    assert (mask == expected).mean() >= 0.999


def test_what_it_cannot_do_is_refused(program: Path, tmp_path: Path) -> None:
    result = export(
        *(Small(), tmp_path),
        logits=lambda outputs: outputs[0],
        transforms=[{"type": "ResizeByShort", "short_size": 32}, NORMALIZE],
        class_names=["a", "b", "c", "d", "e"],
    )
    path = add_onnx(tmp_path, result.layer)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "picture.png")
    done = run(program, path, tmp_path / "picture.png", tmp_path / "mask.png")
    assert done.returncode == 2 and "ResizeByShort" in done.stderr
    assert not (tmp_path / "mask.png").exists()
    broken = run(program, path, tmp_path / "nothing.png", tmp_path / "mask.png")
    assert broken.returncode == 2 and broken.stderr.startswith("Error: ")
    assert "usage" in run(program, path).stderr


def test_plain_preprocessing() -> None:
    assert plain_preprocessing([RESIZE, NORMALIZE]) == {
        "preprocess_mean": "0.4 0.5 0.6",
        "preprocess_std": "0.2 0.25 0.3",
        "preprocess_size": "48 40",
    }
    assert plain_preprocessing([{"type": "Normalize"}])["preprocess_mean"] == "0.5 0.5 0.5"
    assert float(plain_preprocessing([])["preprocess_std"].split()[0]) == pytest.approx(1 / 255)
    for other in ([NORMALIZE, RESIZE], [{**RESIZE, "keep_ratio": True}], [{**RESIZE, "interp": "CUBIC"}]):
        assert list(plain_preprocessing(other)) == ["preprocess_other"]


def test_every_exported_file_says_how_it_is_fed(tmp_path: Path) -> None:
    result = export(
        *(Small(), tmp_path),
        logits=lambda outputs: outputs[0],
        transforms=[NORMALIZE],
        class_names=["a", "b", "c", "d", "e"],
    )
    stored = {item.key: item.value for item in onnx.load(str(add_onnx(tmp_path, result.layer))).metadata_props}
    assert stored["preprocess_mean"] == "0.4 0.5 0.6" and stored["output_op"] == "argmax"

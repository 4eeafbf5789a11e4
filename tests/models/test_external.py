"""Models of an installed paddleseg."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import paddle
import peers
import pytest

from paddleseg_slim.models.external import resolve_backbone, resolve_model
from paddleseg_slim.registry import BACKBONES, LOSSES, MODELS

ROOT = Path(__file__).parents[2]


def resolve_elsewhere(packages: Path, code: str) -> str:
    """Run ``code`` in a process of its own that finds ``packages`` before anything installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(packages), str(ROOT))), "OMP_NUM_THREADS": "1"}
    prelude = "from paddleseg_slim.errors import UserError\nfrom paddleseg_slim.models.external import resolve_model\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


REFUSED = """
try:
    resolve_model("ENet")
except UserError as error:
    print(error)
"""


def test_without_paddleseg_the_name_is_unknown(tmp_path: Path) -> None:
    absent = "import sys\nsys.modules['paddleseg'] = None\nimport paddleseg_slim.models\n"
    assert "Unknown model 'ENet'" in resolve_elsewhere(tmp_path, absent + REFUSED)


def test_a_paddleseg_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "paddleseg").mkdir()
    (tmp_path / "paddleseg" / "__init__.py").write_text("import a_module_nobody_has\n")
    message = resolve_elsewhere(tmp_path, REFUSED)
    assert "a_module_nobody_has" in message and "'ENet'" in message


@pytest.mark.peer
def test_a_model_we_lack_comes_from_paddleseg() -> None:
    peers.paddleseg()
    assert "ENet" not in MODELS or MODELS.get("ENet").__module__.startswith("paddleseg.")
    model = resolve_model("ENet")(num_classes=3)
    model.eval()
    assert model(paddle.zeros([1, 3, 64, 64]))[0].shape == [1, 3, 64, 64]
    assert MODELS.get("ENet") is resolve_model("ENet")


@pytest.mark.peer
def test_their_backbone_serves_our_head_and_ours_comes_first() -> None:
    peers.paddleseg()
    backbone = resolve_backbone("MobileNetV2_x1_0")()
    model = resolve_model("FCN")(num_classes=3, backbone=backbone, backbone_indices=(0,))
    assert type(model).__module__ == "paddleseg_slim.models.fcn"
    model.eval()
    assert model(paddle.zeros([1, 3, 64, 64]))[0].shape == [1, 3, 64, 64]
    assert BACKBONES.get("HRNet_W18") is resolve_backbone("HRNet_W18")


def test_losses_are_not_taken_from_there() -> None:
    from paddleseg_slim.errors import UserError
    from paddleseg_slim.models.external import resolve

    with pytest.raises(UserError, match="Unknown loss"):
        resolve(LOSSES, "PointCrossEntropyLoss")

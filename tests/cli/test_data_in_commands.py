"""The commands on PaddleSeg's list files: what is wrong with the data is said before any training (B6 - B10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import SEGMENTATION, write_config

from paddleseg_slim.cli import main as cli

SIZES = [(32, 32), (48, 40), (40, 32), (32, 32)]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Pictures of several sizes with labels of three classes, listed with CRLF, blank lines and a blank in a name."""
    rng = np.random.default_rng(0)
    lines = []
    for index, (width, height) in enumerate(SIZES):
        image, label = tmp_path / f"bild {index}é.jpg", tmp_path / f"label{index}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(image)
        Image.fromarray(rng.integers(0, 3, (height, width), np.uint8)).save(label)
        lines.append(f"{image.name}\t{label.name}")
    (tmp_path / "list.txt").write_bytes(("\r\n".join([*lines, "", ""])).encode())
    return tmp_path


def config_of(folder: Path, **train: Any) -> Path:
    def section(mode: str) -> dict[str, Any]:
        transforms = [{"type": "Resize", "target_size": [32, 32]}, {"type": "Normalize"}]
        paths = {"dataset_root": str(folder), f"{mode}_path": str(folder / "list.txt"), "separator": "\t"}
        return {"type": "Dataset", "mode": mode, "num_classes": 3, "transforms": transforms, **paths}

    return write_config(folder, SEGMENTATION, train_dataset={**section("train"), **train}, val_dataset=section("val"))


def test_list_files_train_evaluate_and_predict(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = config_of(listed), listed / "out"
    flags = ["--config", str(config), "--iters", "2", "--save_dir", str(out), "--do_eval", "--threads", "1"]
    assert cli.main(["train", *flags]) == 0
    weights = ["--config", str(config), "--model_path", str(out / "best_model/model.pdparams")]
    capsys.readouterr()
    augment = ["--aug_eval", "--scales", "0.5", "1.0", "--flip_horizontal"]
    for more in ([], augment, ["--is_slide", "--crop_size", "32", "32", "--stride", "16", "16"], ["--auc_roc"]):
        assert cli.main(["val", *weights, *more, "--engine", "paddle"]) == 0
        printed = capsys.readouterr().out
        assert "[EVAL] #Images: 4 mIoU: " in printed
        assert ("Auc_roc: " in printed) == ("--auc_roc" in more)
    pictures = ["--image_path", str(listed / "list.txt"), "--save_dir", str(listed / "p")]
    assert cli.main(["predict", *weights, *pictures]) == 0
    for index, size in enumerate(SIZES):
        with Image.open(listed / f"p/pseudo_color_prediction/bild {index}é.png") as mask:
            assert mask.size == size
            assert mask.mode == "P"
        assert (listed / f"p/added_prediction/bild {index}é.jpg").is_file()
    result = listed / "result.json"
    assert cli.main(["val", *weights, "--engine", "paddle", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["values"]["mIoU"] == pytest.approx(_mean_iou(listed), abs=1e-9)


def _mean_iou(folder: Path) -> float:
    """mIoU of the masks that predict wrote, class by class from their pixels."""
    masks = [np.array(Image.open(folder / f"p/pseudo_color_prediction/bild {i}é.png")).ravel() for i in range(4)]
    labels = [np.array(Image.open(folder / f"label{i}.png")).ravel() for i in range(4)]
    mask, label = np.concatenate(masks), np.concatenate(labels)
    both = [((mask == c) & (label == c)).sum() / ((mask == c) | (label == c)).sum() for c in np.union1d(mask, label)]
    return float(np.mean(both))


def test_val_says_when_there_is_no_test_set(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(listed)
    flags = ["--config", str(config), "--iters", "1", "--save_dir", str(listed / "out"), "--threads", "1"]
    assert cli.main(["train", *flags]) == 0
    weights = ["--model_path", str(listed / "out/iter_1/model.pdparams")]
    assert "no test_dataset" not in capsys.readouterr().out
    assert cli.main(["val", "--config", str(config), *weights, "--dataset", "test", "--engine", "paddle"]) == 0
    assert "no test_dataset: val_dataset is used" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "val"])
def test_bad_data_is_named_before_any_work(command: str, listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(phrase: str) -> None:
        flags = ["--config", str(config_of(listed)), *(["--model_path", "x"] if command == "val" else [])]
        flags += ["--save_dir", str(listed / "out")] if command == "train" else []
        assert cli.main([command, *flags]) == 2
        error = capsys.readouterr().err
        assert phrase in error
        assert not (listed / "out/iter_1").exists()

    Image.fromarray(np.full((32, 32), 89, np.uint8)).save(listed / "label3.png")
    refused("89")
    (listed / "label3.png").write_bytes(b"")
    refused("label3.png")
    (listed / "label3.png").unlink()
    refused("label3.png")
    (listed / "list.txt").write_text("")
    refused("list.txt")
    (listed / "list.txt").unlink()
    refused("list.txt")


def test_bad_samples_are_skipped_on_request(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (listed / "label3.png").write_bytes(b"")
    flags = ["--config", str(config_of(listed)), "--iters", "1", "--save_dir", str(listed / "out"), "--threads", "1"]
    assert cli.main(["train", *flags, "--skip-bad"]) == 0
    assert "1 of 4 samples cannot be read" in capsys.readouterr().out

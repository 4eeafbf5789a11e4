"""The preflight: every defect that users' data have is named with file, values and counts, by the command too."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from paddleseg_slim.data import Dataset, FashionGarments, FashionScenes
from paddleseg_slim.data.check import check_dataset, preflight
from paddleseg_slim.errors import UserError


def make(root, labels, num_classes=2, **options) -> Dataset:
    """A dataset of one image for each label map."""
    lines = []
    for number, label in enumerate(labels):
        label = np.asarray(label, np.uint8)
        Image.new("RGB", label.shape[1::-1]).save(root / f"{number}.jpg")
        Image.fromarray(label).save(root / f"{number}.png")
        lines.append(f"{number}.jpg {number}.png\n")
    (root / "train.txt").write_text("".join(lines))
    return Dataset([], str(root), num_classes, train_path=str(root / "train.txt"), **options)


def tile(*values: int) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), (8, 8))


def test_good_data_has_no_problem(tmp_path):
    report = check_dataset(make(tmp_path, [tile(0, 1), tile(0, 255)]))
    assert not report.problems and not report.warnings
    assert report.pixels == {0: 64, 1: 32, 255: 32} and report.sizes == {(8, 8): 2}


@pytest.mark.parametrize(
    ("labels", "num_classes", "ignore_index", "cause", "remedy"),
    [
        (
            [tile(0, 89), tile(0, 1), tile(218, 254)],
            2,
            255,
            r"2 of 3 labels .* 89 \(32 pixels\), 218 .*0\.png",
            "colour mask",
        ),
        ([tile(0, 1, 2), tile(1)], 2, 255, r"1 of 2 labels .* 2 \(21 pixels\)", "num_classes to at least 3"),
        ([tile(0, 255), tile(0, 255)], 2, 255, "ignored value 255 only", "label_map: {255: 1}"),
        ([tile(0, 255)], 2, 254, r"255 \(32 pixels\)", "label_map: {255: 1}"),
        ([tile(1, 2, 3), tile(3)], 3, 255, r"3 \(85 pixels\)", "count from 1"),
        ([tile(0, 76, 150, 29)], 4, 255, "29 .* 76 .* 150", "colour mask"),
        ([tile(255), tile(255)], 2, 255, "All 2 labels are the ignored value 255", "ignore_index"),
    ],
)
def test_labels_that_are_no_class_numbers(tmp_path, labels, num_classes, ignore_index, cause, remedy):
    data = make(tmp_path, labels, num_classes, ignore_index=ignore_index)
    with pytest.raises(UserError, match=cause) as caught:
        preflight(data)
    assert remedy in caught.value.remedy


def test_the_hint_for_a_mask_puts_it_right(tmp_path):
    assert not check_dataset(make(tmp_path, [tile(0, 255)] * 2, label_map={255: 1})).problems


def test_absent_classes_and_empty_labels_are_told(tmp_path):
    data = make(tmp_path, [tile(0), tile(255)], 3, class_names=["ground", "car", "tree"])
    report = preflight(data)
    assert any("2 of 3 classes are absent in the data: 1 (car), 2 (tree)" in text for text in report.warnings)
    assert any("1 labels are the ignored value" in text and "1.png" in text for text in report.warnings)


def test_bad_files_are_named_or_left_out_and_counted(tmp_path):
    data = make(tmp_path, [tile(0, 1)] * 6)
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "2.png").unlink()
    Image.new("L", (9, 8)).save(tmp_path / "4.png")
    report = check_dataset(data)
    assert report.unreadable == [1, 2, 4]
    with pytest.raises(UserError, match=r"1\.jpg is empty .*2 more problems"):
        preflight(data)
    report = preflight(data, skip_bad=True)
    assert len(data) == 3 and "3 of 6 samples cannot be read" in " ".join(report.warnings)
    for number in (0, 3, 5):
        (tmp_path / f"{number}.jpg").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="None of the 3 samples"):
        preflight(data, skip_bad=True)


def test_a_part_is_opened_but_all_files_must_exist(tmp_path):
    data = make(tmp_path, [tile(0, 1)] * 10)
    assert check_dataset(data, max_files=3).checked == 3
    (tmp_path / "5.png").unlink()
    with pytest.raises(UserError, match=r"5\.png does not exist"):
        preflight(data, max_files=2)


def test_the_model_must_have_as_many_classes(tmp_path):
    with pytest.raises(UserError, match=r"model has 19 classes, .* 2"):
        preflight(make(tmp_path, [tile(0, 1)]), num_classes=19)


def test_the_embedded_data_are_sound():
    for data in (FashionScenes(mode="test", size=64, num_samples=60), FashionGarments(mode="val", num_samples=50)):
        report = check_dataset(data)
        assert not report.problems and not report.warnings


def test_of_a_generated_set_a_sample_is_looked_at_and_of_files_all(tmp_path):
    scenes = FashionScenes(mode="train", size=32, num_samples=20_000)
    report = check_dataset(scenes, max_generated=30)
    assert not report.problems
    assert report.lines()[0].startswith("FashionScenes (train): 30 of 20,000 generated scenes looked at; ")
    assert preflight(scenes, skip_bad=True, max_files=5).checked == 5  # there is no file that could be bad
    files = make(tmp_path, [tile(0, 1)] * 10)
    report = check_dataset(files, max_generated=3)
    assert report.checked == 10 and "10 of 10 samples opened" in report.lines()[0]


def command(config, *flags):
    line = [sys.executable, "-m", "paddleseg_slim.cli.main", "check-data", "--config", str(config), *flags]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_the_command(tmp_path):
    make(tmp_path, [tile(0, 1), tile(0, 7)])
    (tmp_path / "c.yml").write_text(
        f"""
batch_size: 1
iters: 1
train_dataset:
  {{type: Dataset, dataset_root: '{tmp_path}', train_path: '{tmp_path}/train.txt', num_classes: 2, mode: train}}
optimizer: {{type: SGD}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.1}}
loss: {{types: [{{type: CrossEntropyLoss}}], coef: [1]}}
model: {{type: FastSCNN}}
""".replace("mode: train}", "mode: train, transforms: [{type: Normalize}]}")
    )
    bad = command(tmp_path / "c.yml", "--json", str(tmp_path / "report.json"))
    assert bad.returncode == 2, bad.stderr
    assert "7 (32 pixels)" in bad.stderr and "1.png" in bad.stderr and len(bad.stderr.splitlines()) == 2
    assert json.loads((tmp_path / "report.json").read_text())[0]["pixels"] == {"0": 64, "1": 32, "7": 32}
    good = command(tmp_path / "c.yml", "--opts", "train_dataset.num_classes=8")
    assert good.returncode == 0, good.stderr
    assert "absent" in good.stdout
    both = command(tmp_path / "c.yml", "--all", "--max_files", "3")
    assert both.returncode == 2 and "both given" in both.stderr

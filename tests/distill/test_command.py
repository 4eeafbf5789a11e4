"""The distill command on a net that trains in a second."""

from __future__ import annotations

import shutil

import pytest
import tiny

from paddleseg_slim.cli import main as cli
from paddleseg_slim.files import sha256
from paddleseg_slim.report.stage import read_stage


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A config without augmentation and a teacher's weights."""
    folder = tmp_path_factory.mktemp("distill")
    plain = {**tiny.SEGMENTATION["val_dataset"], "num_samples": 8}  # the scenes of `train` differ from epoch to epoch
    config = tiny.write_config(folder, train_dataset=plain, iters=4)
    train = ["train", "--config", str(config), "--save_dir", str(folder / "run"), "--device", "cpu", "--threads", "1"]
    assert cli.main([*train, "--iters", "6", "--seed", "7"]) == 0
    shutil.copy(folder / "run" / "iter_6" / "model.pdparams", folder / "teacher.pdparams")
    return folder


def _flags(place, out, *more):
    config = str(place / "tiny.yml")
    return [
        *("distill", "--student_config", config, "--save_dir", str(out), "--save_interval", "2", "--device", "cpu"),
        *("--teather_config", config, "--threads", "1", *map(str, more)),
    ]


def test_resumed_it_ends_with_the_same_model_and_refuses_other_losses(place, tmp_path, capsys):
    """With adapters (none here: equal widths), features and the logits; the graph is what a later step takes."""
    losses = [
        "--logits_loss",
        "DKDLoss",
        "--feature_loss",
        "CWDLoss",
        "--teacher_model_path",
        place / "teacher.pdparams",
    ]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert cli.main(_flags(place, whole, *losses)) == 0
    assert cli.main(_flags(place, whole, *losses)) == 2  # it is there already
    resumed.mkdir()
    shutil.copytree(whole / "iter_2", resumed / "iter_2")
    assert cli.main(_flags(place, resumed, *losses, "--resume")) == 0
    graphs = [sha256(folder / "graph" / "weights.safetensors") for folder in (whole, resumed)]
    assert graphs[0] == graphs[1]
    capsys.readouterr()
    other = [*losses, "--feature_weight", "2", "--model_path", place / "teacher.pdparams"]
    assert cli.main(_flags(place, whole, *other, "--resume")) == 2  # failure mode I3
    printed = capsys.readouterr().err
    assert "feature_weight is 2.0, was 1.0" in printed and "model_path" in printed and "teacher_model" not in printed
    stage = read_stage(whole)
    assert stage.kind == "distill" and stage.accuracy is not None and (whole / "model.json").is_file()


def test_an_exported_teacher_whose_outputs_are_cached(place, tmp_path):
    exported = tmp_path / "exported"
    export = ["export", "--config", str(place / "tiny.yml"), "--model_path", str(place / "teacher.pdparams")]
    shape = ["--input_shape", "-1", "3", "32", "32"]
    assert cli.main([*export, "--save_dir", str(exported), "--output_op", "none", *shape]) == 0
    flags = ["--teacher_model_path", exported, "--cache_teacher", "--logits_loss", "KDLoss"]
    assert cli.main(_flags(place, tmp_path / "out", *flags)) == 0
    assert len(list((tmp_path / "out" / "teacher_cache").glob("*.npz"))) == 8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "No --teacher_model_path"),
        (["--teacher_model_path", "absent.pdparams"], "absent.pdparams"),
        (["--mutual", "--logits_loss", "KDLoss"], "--mutual"),
        (["--teacher_model_path", "x.pdparams", "--logits_loss", "KDLos"], "KDLoss"),
    ],
)
def test_wrong_flags_are_refused(flags, message, place, tmp_path, capsys):
    assert cli.main(_flags(place, tmp_path / "out", *flags)) == 2
    assert message in capsys.readouterr().err


def test_two_students_learn_from_each_other(place, tmp_path):
    assert cli.main(_flags(place, tmp_path / "out", "--mutual", "--iters", 2)) == 0
    text = (tmp_path / "out" / "train_log.jsonl").read_text(encoding="utf-8")
    assert "mutual_loss" in text and "peer_loss" in text

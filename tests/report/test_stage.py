from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.report import Accuracy, Latency, Stage, file_sizes, find_stages, read_stage, write_stage

FULL = Stage(
    "pruned",
    "prune",
    "python slim/prune.py",
    Accuracy("mIoU", {"mIoU": 0.5, "Acc": 0.9}, {"cat": None, "dog": 0.25}, 10, "onnxruntime"),
    12,
    34,
    {"model.onnx": 5},
    (Latency("onnxruntime", "cpu", 2, (1, 3, 8, 8), 1.5, 2.5, "int8", 1.2, 1.1, 1.3, "dense", "pruned", "note"),),
    "dense",
    {"cpu": "x", "flags": ["avx2"]},
    ("samples/0.npz",),
    1.5,
    {"loss": [[1, 0.5]]},
    ("one", "two"),
    (1, 3, 8, 8),
    {"conv1": (32, 24), "conv2": (8, 8)},
    {"conv2": "others save more for their loss"},
    {"head": "they are the network's output"},
    {"../sensitivities.png": "Curves."},
)


def test_a_stage_survives_its_file(tmp_path):
    for stage in (FULL, Stage("dense", "train", "python train.py")):
        write_stage(tmp_path, stage)
        assert read_stage(tmp_path) == stage
        assert read_stage(tmp_path / "stage.json") == stage


def test_a_file_from_before_there_were_widths_is_read(tmp_path):
    write_stage(tmp_path, FULL)
    path = tmp_path / "stage.json"
    data = json.loads(path.read_text())
    new = ("widths", "untouched", "pinned", "pictures")
    path.write_text(json.dumps({key: value for key, value in data.items() if key not in new}))
    assert read_stage(tmp_path) == replace(FULL, **{key: {} for key in new})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "trian"}, "of the kind 'trian'"),
        ({"name": 3}, "name is 3"),
        ({"extra": 1}, "extra: unknown key"),
        ({"params": "many"}, "params is 'many'"),
        ({"accuracy": {"primary": "mIoU"}}, "accuracy.values is missing"),
        ({"accuracy": 0.5}, "accuracy is 0.5, not an object"),
        ({"latency": [{"engine": "x"}]}, r"latency\[0\].device is missing"),
        ({"latency": 5}, "latency is 5"),
        ({"widths": {"conv": [1, 2, 3]}}, "widths is"),
    ],
)
def test_a_malformed_stage_is_named(tmp_path, change, message):
    write_stage(tmp_path, FULL)
    path = tmp_path / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        read_stage(path)


def test_files_that_are_no_stage(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_stage(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "does not hold a stage")):
        (tmp_path / "stage.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_stage(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no stage\.json"):
        find_stages([tmp_path / "empty"])


def test_stages_are_found_in_the_order_of_their_bases(tmp_path):
    chain = [("d", "int8", "quant", "pruned"), ("a", "pruned", "prune", "dense"), ("c", "dense", "train", None)]
    for folder, name, kind, base in chain:
        write_stage(tmp_path / folder, Stage(name, kind, "x", base=base))
    assert [stage.name for _, stage in find_stages([tmp_path])] == ["dense", "pruned", "int8"]
    assert [folder.name for folder, _ in find_stages([tmp_path / "d", tmp_path])] == ["c", "a", "d"]
    write_stage(tmp_path / "e", Stage("dense", "train", "x"))
    with pytest.raises(UserError, match=r"Two stages are called 'dense', and .* speaks of one"):
        find_stages([tmp_path])


def test_a_circle_of_bases_ends(tmp_path):
    write_stage(tmp_path / "a", Stage("a", "prune", "x", base="b"))
    write_stage(tmp_path / "b", Stage("b", "prune", "x", base="a"))
    assert len(find_stages([tmp_path])) == 2


def test_file_sizes(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"12345")
    (tmp_path / "sub" / "x.txt").write_bytes(b"1")
    write_stage(tmp_path, FULL)
    assert file_sizes(tmp_path) == {"model.onnx": 5, "sub/x.txt": 1}
    assert file_sizes(tmp_path, "*.onnx") == {"model.onnx": 5}


def test_latency_of_a_benchmark_row():
    comparison = SimpleNamespace(base="dense@onnxruntime", speedup=1.5, low=1.4, high=float("inf"))
    row = SimpleNamespace(
        engine="onnxruntime",
        device="cpu",
        precision="int8",
        median_ms=2.0,
        p90_ms=3.0,
        info={"convolutions": {"int8": 3, "fp32": 1}},
        int8_convs="3/4",
        comparison=comparison,
    )
    latency = Latency.of(row, SimpleNamespace(threads=2, input_shape=(1, 3, 4, 4)), "int8")
    assert latency == Latency(
        "onnxruntime",
        "cpu",
        2,
        (1, 3, 4, 4),
        2.0,
        3.0,
        "int8",
        1.5,
        1.4,
        None,
        "dense",
        "int8",
        "3/4 convolutions in int8",
    )

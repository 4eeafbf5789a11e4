"""Failure modes B1 - B5, I2, I3, I9, flags that cannot be honoured: exit code 2, a line of cause, one of remedy."""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from tiny import CLASSIFICATION, ROOT, command, environment, write_config

from paddleseg_slim.cli import main as cli
from paddleseg_slim.cli.predict import find_pictures
from paddleseg_slim.cli.runner import guarded, python_problem
from paddleseg_slim.config import load_config
from paddleseg_slim.errors import UserError
from paddleseg_slim.models.fast_scnn import FastSCNN
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.weights import load_weights


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a run of two steps."""
    folder = tmp_path_factory.mktemp("bad")
    write_config(folder)
    flags = ["--config", str(folder / "tiny.yml"), "--save_dir", str(folder / "run"), "--threads", "1"]
    assert cli.main(["train", *flags, "--iters", "2", "--save_interval", "1"]) == 0
    return folder


class _Refused:
    """Runs a command that must end with exit code 2 and two lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 2) -> str:
        self._capsys.readouterr()
        assert cli.main([str(item) for item in arguments]) == code
        printed = self._capsys.readouterr()
        assert len(printed.err.strip().splitlines()) == 2, printed.err
        assert "[TRAIN]" not in printed.out
        return printed.err


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> _Refused:
    return _Refused(capsys)


def _malicious(path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {path}.executed",)

    with open(path, "wb") as stream:
        pickle.dump({"conv.weight": Attack()}, stream)


def _truncated(path: Path) -> None:
    stream = io.BytesIO()
    pickle.dump({"conv.weight": np.zeros((64, 64), np.float32)}, stream, protocol=4)
    path.write_bytes(stream.getvalue()[:-500])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "truncated": (_truncated, "not a complete file"),
    "random": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4096)), "not a complete file"),
    "text": (lambda path: path.write_text("<html>404</html>"), "not a complete file"),
    "malicious": (_malicious, "posix.system" if os.name == "posix" else "nt.system"),
    "other": (lambda path: paddle.save(paddle.nn.Linear(2, 2).state_dict(), str(path)), "0/246 tensors match"),
    "classes": (lambda path: paddle.save(FastSCNN(19).state_dict(), str(path)), "has 19 classes, the model has 6"),
    "not_weights": (lambda path: paddle.save({"epoch": 3}, str(path)), "holds no tensors by name"),
}


@pytest.mark.parametrize("kind", FILES)
def test_checkpoints_that_do_not_fit_are_refused(kind: str, place: Path, tmp_path: Path, refused: _Refused) -> None:
    write, phrase = FILES[kind]
    path = tmp_path / "model.pdparams"
    write(path)
    error = refused("val", "--config", place / "tiny.yml", "--model_path", path)
    assert phrase in error
    assert not Path(f"{path}.executed").exists()


@pytest.mark.parametrize(("verb", "flag"), [("val", True), ("eval", False)])
def test_a_flag_is_named_by_the_commands_that_have_it(
    verb: str, flag: bool, place: Path, tmp_path: Path, refused: _Refused
) -> None:
    paddle.save(FastSCNN(19).state_dict(), str(tmp_path / "m.pdparams"))
    more = ("--model", tmp_path, "--max-drop", 0.1) if verb == "eval" else ()
    error = refused(verb, "--config", place / "tiny.yml", "--model_path", tmp_path / "m.pdparams", *more)
    assert "has 19 classes, the model has 6" in error and ("--reset-head" in error) is flag


def test_a_list_of_pictures_with_a_line_too_long_for_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x" * 5000, encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: x+ does not exist"):
        find_pictures(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("flag", ["--seed", "--max_drop", "--reconstruct"])
def test_numbers_below_zero_are_refused_by_post_quant(flag: str, tmp_path: Path, refused: _Refused) -> None:
    flags = ("--config", "absent.yml", "--from_scratch", "--save_dir", tmp_path / "out")
    assert f"{flag} is -1" in refused("post_quant", *flags, f"{flag}=-1")


def test_an_error_is_two_lines_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UserError("Paddle says\n  [Hint: a] \n", "Do\nit.")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "Error: Paddle says [Hint: a]\nDo it.\n"


def test_the_head_is_reset_only_on_request(place: Path, tmp_path: Path) -> None:
    paddle.save(FastSCNN(19).state_dict(), str(tmp_path / "m.pdparams"))
    flags = ["--config", str(place / "tiny.yml"), "--model_path", str(tmp_path / "m.pdparams"), "--reset-head"]
    flags += ["--engine", "paddle"]
    assert cli.main(["val", *flags]) == 0


@pytest.mark.parametrize("wrap", ["module.", "state_dict", "ema"])
def test_wrapped_checkpoints_are_loaded(wrap: str, place: Path, tmp_path: Path) -> None:
    state = {name: tensor.numpy() for name, tensor in FastSCNN(6).state_dict().items()}
    content = {f"module.{name}": value for name, value in state.items()} if wrap == "module." else {wrap: state}
    path = tmp_path / "m.pdparams"
    with open(path, "wb") as stream:
        pickle.dump(content, stream)
    result = tmp_path / "result.json"
    flags = ["--config", str(place / "tiny.yml"), "--model_path", str(path), "--json", str(result)]
    assert cli.main(["val", *flags, "--engine", "paddle"]) == 0
    assert json.loads(result.read_text())["images"] == 4


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (["--device", "npu"], "--device npu"),
        (["--fp16"], "fp16"),
        (["--precision", "fp16"], "fp16"),
        (["--data_format", "NHWC"], "FastSCNN has NCHW only"),
        (["--use_multilabel"], "multi-label"),
        (["--profiler_options", "batch_range=[1,2]"], "not profiled"),
        (["--output_op", "argmax"], "export.py"),
        (["--learning_rate", "0"], "above 0"),
        (["--batch_size", "100"], "fewer than a batch"),
        (["--iters", "0"], "iters"),
        (["--threads", "0"], "--threads"),
        (["--seed", "-1"], "seed"),
        (["--early_stop_intervals", "2"], "do_eval"),
        (["--opts", "optimizer.momentun=0.8"], "momentum"),
        (["--opts", "optimizer.type=SGDD"], "SGD"),
        (["--opts", "lr_scheduler.warmup_start_lr=None"], "warmup_start_lr"),
        (["--opts", "model.num_classes=7"], "6"),
        (["--resume_model", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_cannot_be_honoured_are_refused(
    flags: list[str], phrase: str, place: Path, tmp_path: Path, refused: _Refused
) -> None:
    error = refused("train", "--config", place / "tiny.yml", "--save_dir", tmp_path / "out", *flags)
    assert phrase in error
    assert not list((tmp_path / "out").glob("*"))


def test_a_full_folder_is_refused_without_overwrite(place: Path, refused: _Refused) -> None:
    flags = ("train", "--config", place / "tiny.yml", "--save_dir", place / "run")
    assert "not empty" in refused(*flags)
    (place / "run" / ".running.json").write_text(_lock_of_this_process())
    assert "in use" in refused(*flags, "--overwrite")
    (place / "run" / ".running.json").unlink()


def _lock_of_this_process() -> str:
    import socket

    import psutil

    started = psutil.Process().create_time()
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})


def test_resume_with_other_settings_names_the_keys(place: Path, refused: _Refused) -> None:
    flags = ("train", "--config", place / "tiny.yml", "--save_dir", place / "run", "--resume_model", place / "run")
    error = refused(*flags, "--iters", 2, "--opts", "optimizer.momentum=0.8")
    assert "optimizer.momentum: 0.8, was 0.9" in error
    assert "seed: 7, was 42" in refused(*flags, "--iters", 2, "--seed", 7)
    assert "iters: 9, was 2" in refused(*flags, "--iters", 9)
    assert "train_dataset.num_samples: 6, was 8" in refused(
        *flags, "--iters", 2, "--opts", "train_dataset.num_samples=6"
    )


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_named(
    place: Path, tmp_path: Path, refused: _Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    damaged = tmp_path / "run/iter_2/model.pdparams"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    flags = ("train", "--config", place / "tiny.yml", "--iters", 2, "--threads", 1, "--save_dir", tmp_path / "run")
    error = refused(*flags, "--resume_model", tmp_path / "run/iter_2")
    assert "damaged" in error
    assert "iter_1" in error
    assert cli.main([str(item) for item in (*flags, "--resume_model", tmp_path / "run")]) == 0  # uses iter_1
    assert "iter: 2/2" in capsys.readouterr().out


def test_resuming_a_finished_run_changes_nothing(place: Path) -> None:
    before = json.loads((place / "run/stage.json").read_text())
    flags = ["--config", str(place / "tiny.yml"), "--save_dir", str(place / "run"), "--threads", "1", "--iters", "2"]
    assert cli.main(["train", *flags, "--save_interval", "1", "--resume_model", str(place / "run")]) == 0
    after = json.loads((place / "run/stage.json").read_text())
    assert list(after["files"]) == ["iter_2/model.pdparams"]
    assert {key: after[key] for key in ("files", "params", "curves")} == {
        key: before[key] for key in ("files", "params", "curves")
    }


@pytest.mark.parametrize(
    ("flags", "phrase", "remedy"),
    [
        (["--learning_rat", "1"], "--learning_rat", "--learning_rate"),
        (["--iters", "abc"], "'abc'", "--help"),
        (["--iters"], "--iters", "--help"),
        (["--device", "tpu"], "'tpu'", "--help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_cannot_be_read_are_said_in_two_lines(
    flags: list[str], phrase: str, remedy: str, place: Path, refused: _Refused
) -> None:
    cause, hint = refused("train", "--config", place / "tiny.yml", *flags).strip().splitlines()
    assert phrase in cause
    assert remedy in hint


def test_unknown_verbs_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "train" in capsys.readouterr().err
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {verb} " in listed for verb in ("train", "val", "predict", "doctor"))


def test_classification_runs_through_the_same_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, CLASSIFICATION)
    out = tmp_path / "out"
    flags = ["--config", str(config), "--do_eval", "--save_interval", "2", "--threads", "1", "--save_dir", str(out)]
    assert cli.main(["train", *flags]) == 0
    assert "Top-1: " in capsys.readouterr().out
    weights = str(out / "best_model/model.pdparams")
    assert cli.main(["val", "--config", str(config), "--model_path", weights]) == 0
    assert "[EVAL] #Images: 8 Top-1: " in capsys.readouterr().out
    picture = tmp_path / "garment.png"
    from PIL import Image

    Image.fromarray(np.zeros((28, 28, 3), np.uint8)).save(picture)
    saved = tmp_path / "result"
    predict = ["--config", str(config), "--model_path", weights, "--image_path", str(picture), "--save_dir", str(saved)]
    assert cli.main(["predict", *predict]) == 0
    rows = (saved / "predictions.csv").read_text().splitlines()
    assert rows[0] == "image,class,probability"
    assert rows[1].startswith("garment.png,")


def test_a_missing_paddle_is_one_sentence() -> None:
    code = "import sys; sys.modules['paddle'] = None; from paddleseg_slim.cli import main; sys.exit(main.main())"
    config = "configs/fashion/fastscnn_fashion5_128x128.yml"
    arguments = ["val", "--config", config, "--model_path", "y.pdparams"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Paddle is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("arguments", [[], ["train", "--config", "x.yml"]])
def test_a_missing_dependency_is_named(arguments: list[str]) -> None:
    code = "import sys; sys.modules['psutil'] = None; from paddleseg_slim.cli import main; sys.exit(main.main())"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    cause, remedy = done.stderr.strip().splitlines()
    assert "psutil is not installed" in cause
    assert "pip install" in remedy


def test_other_pythons_are_refused_in_one_sentence() -> None:
    assert python_problem((3, 9)) is None
    assert python_problem((3, 13)) is None
    for version in ((3, 8), (3, 14)):
        cause, remedy = python_problem(version) or ("", "")
        assert "is not supported" in cause
        assert "3.9 to 3.13" in remedy


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files, as a full disk does")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    line = shlex.join(command("train.py", "--config", config, "--iters", 1, "--save_dir", tmp_path / "out"))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 3000; exec {line}"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    cause, remedy = done.stderr.strip().splitlines()
    assert "File too large" in cause
    assert "Make room" in remedy
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train_log.jsonl"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--is_slide",), "needs crop_size"),
        (("--crop_size", 32, 32), "without is_slide"),
        (("--is_slide", "--crop_size", 16, 16, "--stride", 32, 32), "larger than crop_size"),
        (("--flip_horizontal",), "without aug_eval"),
        (("--scales", 0.5, 1.0), "without aug_eval"),
        (("--aug_eval", "--scales", 0), "scales are [0.0]"),
        (("--amp_level", "O2"), "without --precision fp16"),
        (("--fp16", "--engine", "onnxruntime"), "--engine is onnxruntime"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("verb", ["val", "predict"])
def test_flags_that_contradict_each_other_are_refused_before_anything_is_read(
    verb: str, flags: tuple[Any, ...], message: str, place: Path, refused: _Refused
) -> None:
    """The weights do not exist, and that is not what is said."""
    flags = tuple("--aug_pred" if flag == "--aug_eval" and verb == "predict" else flag for flag in flags)
    (place / "a.png").write_bytes(b"")
    pictures = ("--image_path", place / "a.png", "--save_dir", place / "pred") if verb == "predict" else ()
    printed = refused(
        verb, "--config", place / "tiny.yml", "--model_path", place / "absent.pdparams", *flags, *pictures
    )
    assert message in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_too_little_memory_is_said_with_a_suggestion(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    arguments = [
        "--config",
        config,
        "--save_dir",
        tmp_path / "out",
        "--batch_size",
        64,
        "--opts",
        "train_dataset.size=512",
    ]
    line = shlex.join(command("train.py", *arguments, "train_dataset.num_samples=64"))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 6000000; exec {line}"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    assert "not enough memory" in done.stderr
    assert "--batch_size" in done.stderr


def test_a_saved_graph_is_evaluated_like_its_model(place: Path, tmp_path: Path) -> None:
    graph = pytest.importorskip("paddleseg_slim.graph")
    task = build_task(load_config(place / "tiny.yml"))
    weights = place / "run/iter_2/model.pdparams"
    model = task.build_model()
    load_weights(model, weights)
    graph.save(graph.capture(model, task.input_spec()), tmp_path / "graph")
    found = []
    for name, path in (("model", weights), ("graph", tmp_path / "graph")):
        result = tmp_path / f"{name}.json"
        flags = ["--config", str(place / "tiny.yml"), "--model_path", str(path), "--json", str(result)]
        assert cli.main(["val", *flags]) == 0
        found.append(json.loads(result.read_text())["values"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)

"""The commands that run and evaluate an exported file, started as users start them."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import paddle
import pytest
import yaml
from paddle import nn
from PIL import Image
from tiny import CLASSIFICATION, ROOT, environment, write_config
from tiny import run as run_script

from paddleseg_slim.cli import runner, test_seg
from paddleseg_slim.config import load_config
from paddleseg_slim.deploy.evaluate import as_scores
from paddleseg_slim.deploy.export import export
from paddleseg_slim.deploy.infer import Predictor, restore
from paddleseg_slim.deploy.prepare import add_onnx, model_file
from paddleseg_slim.deploy.runtimes import RuntimeOptions, load
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import load as load_graph
from paddleseg_slim.report import Stage, write_stage
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.evaluate import evaluate, model_forward

ONE = RuntimeOptions(threads=1)


def command(verb: str, *args: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "paddleseg_slim.cli.main", verb, *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=300)


def in_process(capsys, verb: str, *args: object) -> tuple[int, str]:
    """Exit code and standard error of the same command without the seconds that a start of Paddle takes."""
    code = runner.main(verb, [str(arg) for arg in args])
    return code, capsys.readouterr().err


class ByColour(nn.Layer):
    """Class 1 where a picture is red, 2 where it is green, 3 where it is blue, else 0; and two classes never given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 6, 1)
        weight = np.zeros((6, 3, 1, 1), np.float32)
        for channel in range(3):
            weight[channel + 1, :, 0, 0] = -1
            weight[channel + 1, channel, 0, 0] = 2
        self.conv.weight.set_value(weight)
        self.conv.bias.set_value(np.array([0.1, 0, 0, 0, -9, -9], np.float32))

    def forward(self, x):
        return [self.conv(x)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    paddle.seed(0)
    task = build_task(load_config(write_config(folder)))
    transforms = task.preprocess().describe()["transforms"]
    for output_op in ("argmax", "none"):
        export(
            ByColour(),
            folder / output_op,
            logits=lambda outputs: outputs[0],
            output_op=output_op,
            transforms=transforms,
            class_names=task.class_names(),
        )
    return {"config": folder / "tiny.yml", "argmax": folder / "argmax", "none": folder / "none"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub").mkdir()
    for name, colour, size in (("a.png", 0, (20, 30)), ("sub/b c.png", 1, (20, 30)), ("d.jpg", 2, (16, 24))):
        picture = np.zeros((*size, 3), np.uint8)
        picture[:, : size[1] // 2, colour] = 255
        Image.fromarray(picture).save(folder / name)
    return folder


def _copied(source: Path, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


@pytest.mark.parametrize("engine", ["paddle", "onnxruntime", "openvino"])
@pytest.mark.parametrize("output_op", ["argmax", "none"])
def test_predictor(exported, pictures: Path, engine: str, output_op: str, tmp_path: Path) -> None:
    folder = exported[output_op]
    if engine != "paddle":
        file = model_file(folder, engine, tmp_path)
        assert {item.key for item in onnx.load(str(file)).metadata_props} >= {"transforms", "class_names", "output_op"}
        for name in ("deploy.yaml", "model.json", "model.pdiparams"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        folder = tmp_path
    predictor = Predictor(folder, engine, ONE)
    arrays = [np.asarray(Image.open(pictures / name)) for name in ("a.png", "sub/b c.png")]
    results = list(predictor.predict(arrays, batch_size=2))
    for colour, classes in enumerate(results):
        assert classes.dtype == np.uint8 and classes.shape == (20, 30)
        assert (classes[:, :15] == colour + 1).all()
    assert len(predictor.times.run) == 1 and len(predictor.times.preprocess) == 2


def test_restore_undoes_padding_and_resizing() -> None:
    logits = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)
    back = restore(logits, [("resize", (12, 10)), ("padding", (6, 5))])
    want = paddle.nn.functional.interpolate(paddle.to_tensor(logits[None, :, :6, :5]), [12, 10], mode="bilinear")
    np.testing.assert_allclose(back, want.numpy()[0], atol=1e-5)
    classes = logits.argmax(0).astype(np.int32)
    assert restore(classes, [("resize", (16, 16))]).tolist() == classes.repeat(2, 0).repeat(2, 1).tolist()


def test_infer_command(exported, pictures: Path, tmp_path: Path) -> None:
    flags = ["--config", exported["argmax"] / "deploy.yaml", "--image_path", pictures, "--save_dir", tmp_path]
    result = command("infer", *flags, "--batch_size", 2, "--benchmark", "True", "--print_detail", "--cpu_threads", 1)
    assert result.returncode == 0, result.stderr
    masks = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert masks == sorted([*(n for n in ("a.png", "d.png", "sub/b c.png")),
                            *(f"added_prediction/{n}" for n in ("a.png", "d.png", "sub/b c.png"))])  # fmt: skip
    mask = Image.open(tmp_path / "sub/b c.png")
    assert mask.mode == "P" and (np.asarray(mask)[:, :15] == 2).all() and mask.size == (30, 20)
    assert "batch 2: preprocess" in result.stdout
    assert re.search(r"^\d{4}-\d\d-\d\d [\d:]{8} \[    INFO\]\t\d+ masks saved in ", result.stdout, re.MULTILINE)


def test_infer_where_paddleseg_has_it(exported, pictures: Path, tmp_path: Path) -> None:
    flags = ["--config", exported["argmax"] / "deploy.yaml", "--image_path", pictures / "a.png"]
    result = run_script(
        "deploy/python/infer.py", *flags, "--save_dir", tmp_path / "out", "--device", "cpu", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert (np.asarray(Image.open(tmp_path / "out/a.png"))[:, :15] == 1).all()


def test_infer_video(exported, tmp_path: Path, capsys) -> None:
    source = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for value in range(5):
        writer.write(np.full((24, 32, 3), 50 * value, np.uint8))
    writer.release()
    flags = ["--config", exported["argmax"], "--image_path", source, "--save_dir", tmp_path / "out"]
    assert in_process(capsys, "infer", *flags) == (0, "")
    capture = cv2.VideoCapture(str(tmp_path / "out/in.avi"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (5, 10)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--device", "gpu"], "GPU"),
        (["--use_trt", "True"], "TensorRT was asked for on the CPU"),
        (["--engine", "onnxruntime"], "holds nothing that onnxruntime reads"),
        (["--engine", "onnxruntime", "--enable_mkldnn", "True"], "--enable_mkldnn is for the engine paddle"),
        (["--enable_auto_tune", "True"], "collects sizes for TensorRT"),
        (["--batch_size", "0"], "--batch_size is 0"),
    ],
)
def test_infer_refuses(exported, pictures: Path, tmp_path: Path, capsys, flags: list[str], text: str) -> None:
    always = ["--config", exported["argmax"], "--image_path", pictures, "--save_dir", tmp_path]
    code, errors = in_process(capsys, "infer", *always, *flags)
    assert code == 2 and text in errors and "Traceback" not in errors


def test_onnx_beside_an_export_is_used(exported, pictures: Path, tmp_path: Path, capsys) -> None:
    layer = load_graph(exported["argmax"])
    for name in ("deploy.yaml", "model.json", "model.pdiparams"):
        (tmp_path / name).write_bytes((exported["argmax"] / name).read_bytes())
    add_onnx(tmp_path, layer, opset=16)
    assert Predictor(tmp_path, "openvino", ONE).deploy.onnx == "model.onnx"
    flags = ["--config", tmp_path, "--image_path", pictures, "--save_dir", tmp_path / "out", "--engine", "onnxruntime"]
    assert in_process(capsys, "infer", *flags) == (0, "")
    assert (np.asarray(Image.open(tmp_path / "out/a.png"))[:, :15] == 1).all()


def test_infer_classifier(pictures: Path, tmp_path: Path, capsys) -> None:
    class Net(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.linear.weight.set_value(np.eye(3, dtype=np.float32))

        def forward(self, x):
            return self.linear(x.mean([2, 3]))

    export(
        Net(), tmp_path, logits=lambda out: out, output_op="softmax", transforms=[{"type": "Normalize"}],
        class_names=["red", "green", "blue"], task="classification",
    )  # fmt: skip
    flags = ["--config", tmp_path, "--image_path", pictures, "--save_dir", tmp_path / "out"]
    assert in_process(capsys, "infer", *flags) == (0, "")
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "out/predictions.csv").open())}
    assert {name: row["class"] for name, row in rows.items()} == {
        "a.png": "red",
        "sub/b c.png": "green",
        "d.jpg": "blue",
    }
    assert 1 / 3 < float(rows["a.png"]["probability"]) < 1


def test_eval_of_the_file_is_that_of_the_model(exported, tmp_path: Path, capsys) -> None:
    """Argmax inside or not, in two engines: one mIoU, that of the source; a limit below the drop ends with 3."""
    scores = []
    for output_op, engine in (("argmax", "paddle"), ("none", "onnxruntime")):
        out = tmp_path / output_op
        flags = ["--config", exported["config"], "--model", exported[output_op], "--runtime", engine, "--threads", 1]
        assert in_process(capsys, "eval", *flags, "--save_dir", out)[0] == 0
        data = json.loads((out / "eval.json").read_text())
        scores.append(data["values"]["mIoU"])
        stage = json.loads((out / "stage.json").read_text())
        assert stage["accuracy"]["source"] == engine and stage["accuracy"]["images"] == 4
    assert scores[0] == pytest.approx(scores[1], abs=1e-6) and 0 < scores[0] < 1
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"primary": "mIoU", "values": {"mIoU": scores[0] + 0.05}}))
    for limit, code in ((0.06, 0), (0.04, 3)):
        ended, errors = in_process(capsys, "eval", *flags, "--source_metrics", source, "--max-drop", limit)
        assert ended == code and ("fell by 0.0500" in errors) == (code == 3)


def test_eval_refuses_other_preprocessing(exported, tmp_path: Path, capsys) -> None:
    section = {"type": "FashionScenes", "mode": "val", "label_set": "fashion5", "num_samples": 2, "size": [32, 32],
               "transforms": [{"type": "Normalize", "mean": [0, 0, 0]}]}  # fmt: skip
    config = write_config(tmp_path, val_dataset=section)
    flags = ["--config", config, "--model", exported["argmax"], "--runtime", "paddle"]
    code, errors = in_process(capsys, "eval", *flags)
    assert code == 2 and "says transforms [{" in errors and "the config [{" in errors


def test_eval_takes_a_description_of_paddleseg(exported, tmp_path: Path, capsys) -> None:
    """Arguments of the transforms that have their defaults are not in it; the keys of today's are not, either."""
    model = _copied(exported["argmax"], tmp_path / "model", "model.json", "model.pdiparams")
    section = {"model": "model.json", "params": "model.pdiparams", "transforms": [{"type": "Normalize"}]}
    (model / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": section}))
    flags = ["--config", exported["config"], "--model", model, "--runtime", "paddle"]
    assert in_process(capsys, "eval", *flags)[0] == 0


def test_eval_needs_a_source_for_a_limit(exported, tmp_path: Path, capsys) -> None:
    flags = ["--config", exported["config"], "--model", exported["argmax"], "--max-drop", 0.1]
    code, errors = in_process(capsys, "eval", *flags)
    assert code == 2 and "needs a source" in errors
    (tmp_path / "other.json").write_text('{"primary": "Top-1", "values": {"Top-1": 0.5}}')
    code, errors = in_process(capsys, "eval", *flags, "--source_metrics", tmp_path / "other.json")
    assert code == 2 and "tells no mIoU" in errors
    code, errors = in_process(capsys, "eval", *flags[:-1], "nan", "--source_metrics", tmp_path / "other.json")
    assert code == 2 and "--max-drop is nan" in errors


def test_a_file_is_evaluated_as_the_config_says(exported, tmp_path: Path, capsys) -> None:
    """``test_config`` holds for the exported file as it does for the model in memory."""
    config = load_config(exported["config"])
    task, settings = build_task(config), {"aug_eval": True, "scales": 0.5}
    plain, scaled = (evaluate(model_forward(ByColour()), task, settings=how).score for how in ({}, settings))
    assert abs(plain - scaled) > 1e-3
    flags = [
        "--config",
        exported["config"],
        "--model",
        exported["none"],
        "--runtime",
        "onnxruntime",
        "--save_dir",
        tmp_path,
    ]
    options = ["--opts", "test_config.aug_eval=True", "test_config.scales=0.5"]
    assert in_process(capsys, "eval", *flags, *options)[0] == 0
    assert json.loads((tmp_path / "eval.json").read_text())["values"]["mIoU"] == pytest.approx(scaled, abs=1e-6)


def test_eval_leaves_the_results_of_other_commands(exported, tmp_path: Path, capsys) -> None:
    write_stage(tmp_path, Stage(name="mine", kind="prune", command="python slim/prune.py"))
    before = (tmp_path / "stage.json").read_bytes()
    flags = ["--config", exported["config"], "--model", exported["argmax"], "--save_dir", tmp_path]
    code, errors = in_process(capsys, "eval", *flags)
    assert code == 2 and "the result of another command (prune)" in errors
    assert (tmp_path / "stage.json").read_bytes() == before


def test_as_scores() -> None:
    classes = np.array([[[0, 2], [1, 1]]], np.int32)
    assert as_scores(classes, 3).argmax(1).tolist() == classes.tolist()
    assert as_scores(np.ones((1, 3, 2, 2), np.float32), 3).shape == (1, 3, 2, 2)
    with pytest.raises(UserError, match="class 2"):
        as_scores(classes, 2)
    with pytest.raises(UserError, match="scores of 3 classes, the task has 4"):
        as_scores(np.ones((1, 3, 2, 2), np.float32), 4)


def test_classification_config_is_evaluated_too(tmp_path: Path, capsys) -> None:
    config = write_config(tmp_path, CLASSIFICATION)
    task = build_task(load_config(config))
    export(
        task.build_model(), tmp_path / "model", logits=task.logits, output_op="none", shape=(-1, 3, 28, 28),
        transforms=task.preprocess().describe()["transforms"], class_names=task.class_names(), task="classification",
    )  # fmt: skip
    flags = [
        "--config",
        config,
        "--model",
        tmp_path / "model",
        "--runtime",
        "onnxruntime",
        "--save_dir",
        tmp_path / "e",
    ]
    assert in_process(capsys, "eval", *flags)[0] == 0
    assert 0 <= json.loads((tmp_path / "e/eval.json").read_text())["values"]["Top-1"] <= 1


def test_test_seg_predicts_a_picture(exported, pictures: Path, tmp_path: Path) -> None:
    """With the flags, and the names of Paddle 2, that PaddleSeg's users type."""
    flags = [f"--model_path={exported['none']}", "--model_filename=model.pdmodel", "--params_filename=model.pdiparams"]
    flags += ["--dataset=cityscapes", f"--image_file={pictures / 'a.png'}", "--save_file=out/res.png"]
    flags += ["--device=CPU", "--use_mkldnn=True", "--use_trt=False", "--precision=fp32", "--benchmark=True"]
    result = run_script("deploy/slim/act/test_seg.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\[Benchmark\]Average inference time: \d+\.\d\dms", result.stdout)
    mask = Image.open(tmp_path / "out/res.png")
    assert mask.mode == "P" and mask.size == (30, 20) and (np.asarray(mask)[:, :15] == 1).all()


def test_test_seg_without_a_description(exported, pictures: Path, tmp_path: Path, capsys) -> None:
    """A picture is prepared by ``--dataset``, PP-HumanSeg's way where nothing is said, and its mask has its size."""
    model = _copied(exported["none"], tmp_path / "model", "model.json", "model.pdiparams")
    for flags, said in (([], "human"), (["--dataset", "ade"], "ade")):
        out = tmp_path / f"{said}.png"
        given = ["--model_path", model, "--image_file", pictures / "sub/b c.png", "--save_file", out, *flags]
        code = runner.main("test_seg", [str(flag) for flag in given])
        assert code == 0 and f"prepared as for --dataset {said}" in capsys.readouterr().out
        mask = np.asarray(Image.open(out))
        assert mask.shape == (20, 30) and (mask[:, :14] == 2).all()


def test_test_seg_evaluates_as_eval_does(exported, tmp_path: Path, capsys) -> None:
    flags = ["--config", exported["config"], "--model", exported["argmax"], "--runtime", "paddle", "--threads", 1]
    assert in_process(capsys, "eval", *flags, "--save_dir", tmp_path)[0] == 0
    score = json.loads((tmp_path / "eval.json").read_text())["values"]["mIoU"]
    flags = ["--model_path", exported["argmax"], "--dataset_config", exported["config"], "--dataset", "cityscapes"]
    assert runner.main("test_seg", [*map(str, flags), "--benchmark"]) == 0
    said = capsys.readouterr().out
    assert f"[EVAL] #Images: 4 mIoU: {score:.4f}" in said and "The config says how the images are prepared" in said
    assert re.search(r"\[Benchmark\]Batch size: 1, Inference time\(ms\): min=[\d.]+, max=[\d.]+, avg=[\d.]+", said)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--image_file and --config are both missing"),
        (["--image_file", "PICTURE", "--config", "CONFIG"], "--image_file and --config are both given"),
        (["--image_file", "none.png"], "--image_file none.png does not exist"),
        (["--config", "CONFIG", "--save_file", "x.png"], "--save_file is for the mask of --image_file"),
        (["--image_file", "PICTURE", "--save_file", "x.jpg"], "cannot hold class numbers"),
        (["--image_file", "PICTURE", "--dataset", "human"], "otherwise than the deploy.yaml"),
        (["--image_file", "PICTURE", "--model_filename", "other.pdmodel"], "No model at"),
        (["--image_file", "PICTURE", "--params_filename", "p.pdiparams"], "the weights of model.json are in model.pd"),
        (["--config", "CONFIG", "--use_multi_img_for_dynamic_shape_collect", "1"], "is for TensorRT and the images"),
        (["--config", "CONFIG", "--device", "CPU", "--use_trt", "True"], "TensorRT was asked for on the CPU"),
        (["--config", "CONFIG", "--device", "CPU", "--use_mkldnn", "0"], "five times slower"),
        (["--config", "CONFIG", "--device", "CPU", "--precision", "int8"], "runs no int8 on the CPU"),
        (["--config", "CONFIG", "--device", "CPU", "--precision", "fp16"], "has no fp16 on the CPU"),
        (["--config", "CONFIG", "--device", "GPU", "--use_mkldnn"], "--use_mkldnn is for the CPU"),
        (["--config", "CONFIG", "--cpu_threads", "-1"], "--cpu_threads is -1"),
    ],
)
def test_test_seg_refuses(exported, pictures: Path, capsys, flags: list[str], text: str) -> None:
    names = {"PICTURE": pictures / "a.png", "CONFIG": exported["config"]}
    given = ["--model_path", exported["none"], *(names.get(flag, flag) for flag in flags)]
    code, errors = in_process(capsys, "test_seg", *given)
    assert code == 2 and text in errors and errors.count("\n") == 2


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="there may be a GPU")
@pytest.mark.parametrize("flags", [["--device", "GPU"], ["--use_trt", "True", "--precision", "int8"]])
def test_test_seg_says_that_there_is_no_gpu(exported, pictures: Path, capsys, flags: list[str]) -> None:
    given = ["--model_path", exported["none"], "--image_file", pictures / "a.png", *flags]
    code, errors = in_process(capsys, "test_seg", *given)
    assert code == 2 and "This Paddle finds no GPU" in errors
    assert not (exported["none"] / test_seg.SHAPES).exists()


def test_shapes_for_tensorrt(exported, tmp_path: Path) -> None:
    """Paddle's own file: the least and the greatest shape of the input among the images that ran."""
    images = [np.zeros((3, *size), np.float32) for size in ((16, 32), (24, 20), (20, 24))]
    assert test_seg.extremes([image.shape[1:] for image in images]) == [0, 1]
    target = tmp_path / "dynamic_shape.txt"
    test_seg.collect_shapes(exported["none"] / "model.json", ONE, images, target)
    (entry,) = (text for text in target.read_text().split("shape_range_info") if '"img"' in text)
    numbers = {kind: re.findall(rf"{kind}_shape: (\d+)", entry) for kind in ("min", "max")}
    assert numbers == {"min": ["1", "3", "16", "20"], "max": ["1", "3", "24", "32"]}
    assert [path.name for path in tmp_path.iterdir()] == ["dynamic_shape.txt"]


def test_shapes_are_collected_first_then_used(exported, tmp_path: Path, capsys, monkeypatch) -> None:
    """What the command asks of a GPU, run on the CPU: the first call only collects, the second reads the file."""
    model = _copied(exported["none"], tmp_path / "model", "deploy.yaml", "model.json", "model.pdiparams")
    asked = []

    def on_cpu(path, engine, options):
        asked.append(options)
        return load(path, engine, replace(options, device="cpu", use_trt=False, precision="fp32"))

    monkeypatch.setattr(test_seg, "load", on_cpu)
    flags = ["--model_path", model, "--config", exported["config"], "--use_trt", "True", "--precision", "int8"]
    flags += ["--use_multi_img_for_dynamic_shape_collect", "True"]
    for call, said in enumerate(("give the same command again", "[EVAL] #Images: 4")):
        assert runner.main("test_seg", [str(flag) for flag in flags]) == 0
        assert said in capsys.readouterr().out and len(asked) == call + 1
    first, second = asked
    assert (first.device, first.use_trt, first.precision, second.use_trt, second.precision) == (
        *("gpu", False, "fp32"),
        *(True, "int8"),
    )
    assert second.trt_shapes == str(model / "dynamic_shape.txt") and (model / "dynamic_shape.txt").stat().st_size

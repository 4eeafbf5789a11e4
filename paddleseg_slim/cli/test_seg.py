"""Run an exported model in Paddle Inference on a picture, or measure it on a config's data: PaddleSeg's test_seg.py."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_slim.cli import arguments, evaluation, runner
from paddleseg_slim.cli.val import say
from paddleseg_slim.deploy.runtimes import Runtime, RuntimeInfo, RuntimeOptions, find_model, load, require_engine
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.deploy.description import Deploy

HELP = "run an exported model on a picture or a config's data, with the flags of PaddleSeg's test_seg.py"

DATASETS: dict[str, list[dict[str, Any]]] = {
    "human": [
        {"type": "PaddingByAspectRatio", "aspect_ratio": 1.77777778},
        {"type": "Resize", "target_size": [398, 224]},
        {"type": "Normalize"},
    ],
    "cityscapes": [{"type": "Normalize"}],
    "ade": [{"type": "Normalize"}],
}
"""How PaddleSeg's script prepares a picture, by ``--dataset``."""

SHAPES = "dynamic_shape.txt"
"""In the model's folder, the shapes of its tensors in Paddle's format, which TensorRT is told."""

_WARM_UP, _REPEATS = 20, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``deploy/slim/act/test_seg.py``."""
    parser.add_argument("--model_path", required=True, metavar="DIR", help="folder of the exported model")
    parser.add_argument("--model_filename", metavar="NAME", help="default: model.json or model.pdmodel")
    parser.add_argument("--params_filename", metavar="NAME", help="default: that of the model, .pdiparams")
    parser.add_argument("--image_file", metavar="FILE", help="picture to run the model on")
    parser.add_argument("--save_file", metavar="FILE", help="where its mask goes (.png or .bmp), in pseudo-colours")
    parser.add_argument("--dataset", choices=tuple(DATASETS), help="how the picture is prepared where there is no "
                        "deploy.yaml beside the model; default human")  # fmt: skip
    parser.add_argument("--config", "--dataset_config", metavar="FILE", help="config to evaluate with (val_dataset), "
                        "instead of --image_file")  # fmt: skip
    arguments.add_boolean(parser, "--benchmark", f"{_WARM_UP} runs to warm up; a picture is then run {_REPEATS} times")
    arguments.add_boolean(
        parser, "--use_trt", f"TensorRT inside Paddle (GPU); the first time, {SHAPES} is written and nothing else done"
    )
    parser.add_argument("--device", type=str.upper, choices=("CPU", "GPU"), help="default: the GPU if there is one")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    arguments.add_boolean(parser, "--use_mkldnn", "oneDNN on the CPU: always on", default=None)
    parser.add_argument("--cpu_threads", type=int, default=1, metavar="N", help="default 1; 0: the physical cores")
    arguments.add_boolean(
        parser,
        "--use_multi_img_for_dynamic_shape_collect",
        f"write {SHAPES} from the highest, lowest, widest and narrowest image of the config's data, not from its first",
    )


def run(args: argparse.Namespace) -> int:
    """Predict or evaluate; see `add_arguments`."""
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    arguments.at_least(args, cpu_threads=0)
    _check(args)
    file = _model_file(args)
    options = _options(args, file.parent)
    shapes = file.parent / SHAPES
    if args.use_trt and not shapes.is_file():
        arguments.check_folder(str(file.parent), "--model_path")
        collect_shapes(file, options, _images_for_shapes(args, file), shapes)
        runner.log("The tensor shapes are saved in %s: give the same command again, it will use them.", shapes)
    elif args.image_file:
        _predict(args, file, options)
    else:
        _evaluate(args, file, options)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, or whose work is not asked for."""
    if bool(args.image_file) == bool(args.config):
        given = "both given" if args.config else "both missing"
        raise UserError(f"--image_file and --config are {given}.", "Give a picture, or a config to evaluate with.")
    if args.image_file and not Path(args.image_file).is_file():
        raise UserError(f"--image_file {args.image_file} does not exist.", "Give a picture.")
    if args.save_file and not args.image_file:
        raise UserError("--save_file is for the mask of --image_file.", "Leave it out, or give a picture.")
    if args.save_file and Path(args.save_file).suffix.lower() not in (".png", ".bmp"):
        raise UserError(f"--save_file {args.save_file} cannot hold class numbers.", "Give a name that ends in .png.")
    if args.save_file:
        arguments.check_folder(str(Path(args.save_file).parent), "--save_file")
    if args.use_multi_img_for_dynamic_shape_collect and not (args.use_trt and args.config):
        raise UserError(
            "--use_multi_img_for_dynamic_shape_collect is for TensorRT and the images of a config.",
            "Give --use_trt True and --config, or leave it out.",
        )


def _model_file(args: argparse.Namespace) -> Path:
    """The program file; ``model.json``, which Paddle 3 writes, stands for a ``model.pdmodel`` that is not there."""
    from paddleseg_slim.deploy.runtimes.paddle_inference import params_file

    folder = Path(args.model_path)
    if not folder.is_dir():
        raise UserError(f"--model_path {folder} is not a folder.", "Give the folder of an exported model.")
    wanted = folder / (args.model_filename or "")
    if wanted.suffix == ".pdmodel" and not wanted.exists() and wanted.with_suffix(".json").is_file():
        wanted = wanted.with_suffix(".json")
        runner.log("%s is read: there is no %s.", wanted, args.model_filename)
    file = find_model(wanted, "paddle")
    params = params_file(file)
    if args.params_filename and args.params_filename != params.name:
        raise UserError(
            f"--params_filename is {args.params_filename}, but the weights of {file.name} are in {params.name}.",
            f"Call them {params.name}, and leave --params_filename out.",
        )
    return file


def _options(args: argparse.Namespace, folder: Path) -> RuntimeOptions:
    require_engine("paddle")
    from paddleseg_slim.train import device

    on_gpu = args.device == "GPU" or (args.device is None and (args.use_trt or "gpu" in device.available()))
    if on_gpu and args.use_mkldnn:
        raise UserError("--use_mkldnn is for the CPU.", "Leave it out, or give --device CPU.")
    if args.use_mkldnn is False and not on_gpu:
        raise arguments.no_onednn("--use_mkldnn")
    if args.precision == "int8" and not on_gpu:
        raise UserError(
            "Paddle Inference runs no int8 on the CPU.",
            "A quantized model.onnx runs in int8: give --engine onnxruntime to paddleseg-slim infer or eval.",
        )
    options = RuntimeOptions(
        device="gpu" if on_gpu else "cpu",
        threads=args.cpu_threads,
        precision=args.precision,
        use_trt=args.use_trt,
        min_subgraph_size=4,
    )
    if not args.use_trt:
        return options
    return replace(options, trt_shapes=str(folder / SHAPES), cache_dir=str(folder / "_opt_cache"))


def collect_shapes(file: Path, options: RuntimeOptions, images: Iterable[np.ndarray], target: Path) -> None:
    """Run ``images`` and write the shapes that the tensors of a model have then, for TensorRT inside Paddle.

    Args:
        file: the program.
        options: how it will be run; its device collects, in fp32.
        images: inputs, ``[3, H, W]``.
        target: the file to write.

    Raises:
        UserError: the device is not there, or the model does not take an image.
    """
    from paddleseg_slim.deploy.evaluate import fixed_batch
    from paddleseg_slim.files import atomic_file

    with atomic_file(target) as temporary:
        collecting = replace(options, precision="fp32", use_trt=False, collect_shapes=str(temporary))
        runtime = load(file, "paddle", collecting)
        for image in images:
            runtime.run({runtime.inputs[0].name: np.stack([image] * (fixed_batch(runtime) or 1))})
        del runtime  # now Paddle writes


def _images_for_shapes(args: argparse.Namespace, file: Path) -> Iterator[np.ndarray]:
    """The picture; or of the config's data the first image, or those with the extreme heights and widths."""
    from paddleseg_slim import config as configs
    from paddleseg_slim.data.image import read_image
    from paddleseg_slim.deploy.infer import preprocessing
    from paddleseg_slim.tasks import build_task

    if args.image_file:
        transforms = preprocessing(_described(args, file), args.model_path)
        yield transforms({"img": read_image(args.image_file), "gt_fields": [], "trans_info": []})["img"]
        return
    dataset = build_task(configs.load_config(args.config)).val_dataset()
    chosen = [0]
    if args.use_multi_img_for_dynamic_shape_collect:
        chosen = extremes([dataset[index]["img"].shape[-2:] for index in range(len(dataset))])
    for index in chosen:
        yield dataset[index]["img"]


def extremes(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Indices, each once, of the first of the highest, lowest, widest and narrowest of ``sizes`` (height, width)."""
    table = np.array(sizes)
    return sorted({int(index) for index in (*table.argmax(0), *table.argmin(0))})


def _described(args: argparse.Namespace, file: Path) -> Deploy:
    """What the ``deploy.yaml`` beside the model says; without one, what ``--dataset`` says.

    Raises:
        UserError: they contradict each other, or the model is no segmentation.
    """
    from paddleseg_slim.deploy.description import Deploy, find_description, read_deploy
    from paddleseg_slim.deploy.infer import preprocessing

    folder, name = file.parent, args.dataset or "human"
    by_name = Deploy(model=file.name, transforms=DATASETS[name])
    description = find_description(folder)
    if description is None:
        runner.log("%s has no deploy.yaml: the picture is prepared as for --dataset %s.", folder, name)
        return by_name
    deploy = read_deploy(description)[0]
    if deploy.task != "segmentation":
        raise UserError(f"The model in {folder} is a classifier.", "Run it with paddleseg-slim infer.")
    ours, theirs = (preprocessing(item, folder).describe()["transforms"] for item in (deploy, by_name))
    if args.dataset and ours != theirs:
        raise UserError(
            f"--dataset {name} prepares pictures otherwise than the deploy.yaml in {folder}.", "Leave --dataset out."
        )
    return replace(deploy, model=file.name)


def _predict(args: argparse.Namespace, file: Path, options: RuntimeOptions) -> None:
    """The mask of a picture, and the time that a run took."""
    from paddleseg_slim.data.image import read_image
    from paddleseg_slim.deploy.infer import Predictor, StageTimes
    from paddleseg_slim.tasks.prediction import mask_picture, save_picture
    from paddleseg_slim.tasks.visual import colour_map

    predictor = Predictor(file.parent, "paddle", options, deploy=_described(args, file))
    picture = read_image(args.image_file)
    if args.benchmark:
        for _ in predictor.predict([picture] * _WARM_UP):
            pass
        predictor.times = StageTimes()
    for classes in predictor.predict([picture] * (_REPEATS if args.benchmark else 1)):  # noqa: B007 (the last counts)
        pass
    runner.log("[Benchmark]Average inference time: %.2fms", np.mean(predictor.times.run))
    if args.save_file:
        save_picture(mask_picture(classes, colour_map()), Path(args.save_file))
        runner.log("Saved result to %s", args.save_file)


def _evaluate(args: argparse.Namespace, file: Path, options: RuntimeOptions) -> None:
    """The numbers of the config's task on its ``val_dataset``, and the times of the runs."""
    from paddleseg_slim import config as configs
    from paddleseg_slim.deploy.evaluate import fixed_batch, runtime_forward
    from paddleseg_slim.tasks import build_task
    from paddleseg_slim.train.evaluate import evaluate

    task = build_task(configs.load_config(args.config))
    evaluation.check_described(file.parent, task)
    if args.dataset:
        runner.log("The config says how the images are prepared, --dataset %s nothing else.", args.dataset)
    runtime = Timed(load(file, "paddle", options))
    forward = runtime_forward(runtime, len(task.class_names()))
    dataset = task.val_dataset()
    if args.benchmark:
        first = dataset[0]["img"][None]
        for _ in range(_WARM_UP):
            forward(first)
        runtime.times.clear()
    batch = fixed_batch(runtime) or 1
    say(evaluate(forward, task, dataset, batch_size=batch))
    least, most, mean = min(runtime.times), max(runtime.times), np.mean(runtime.times)
    runner.log("[Benchmark]Batch size: %d, Inference time(ms): min=%.2f, max=%.2f, avg=%.2f", batch, least, most, mean)


class Timed(Runtime):
    """A loaded model that keeps the milliseconds of its runs in ``times``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self.inputs, self.outputs = runtime, runtime.inputs, runtime.outputs
        self.times: list[float] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Runtime.run`."""
        start = time.perf_counter()
        results = self._runtime.run(feeds)
        self.times.append((time.perf_counter() - start) * 1000)
        return results

    def describe(self) -> RuntimeInfo:
        """What the model says."""
        return self._runtime.describe()

"""Export a trained or compressed model to Paddle Inference."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, output, runner, setup, slim_section
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.deploy.export import ExportResult

HELP = "export a model to Paddle Inference, with the deploy.yaml that says how to feed it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``export.py`` and ``qat_export.py``."""
    arguments.add_config(parser)
    arguments.add_weights(parser)
    slim_section.add(parser)
    arguments.add_output(parser, "./output/inference_model")
    parser.add_argument("--from_scratch", action="store_true", help="export random weights, to measure a speed")
    parser.add_argument(
        "--input_shape",
        nargs="+",
        type=int,
        metavar="N",
        help="N C H W (-1: any length), or H W; default: the config's",
    )
    parser.add_argument("--output_op", choices=("argmax", "softmax", "none"), help="behind the logits; default argmax")
    parser.add_argument("--without_argmax", action="store_true", help="the same as --output_op none")
    parser.add_argument("--with_softmax", action="store_true", help="the same as --output_op softmax")
    parser.add_argument("--for_fd", action="store_true", help="the file names of FastDeploy: inference.*")
    parser.add_argument(
        "--format",
        dest="file_format",
        choices=("json", "pdmodel"),
        default="json",
        help="of the program: Paddle 3's, or pdmodel, which Paddle 2 reads too; default json",
    )
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx, with int8 weights if quantized")
    parser.add_argument("--opset", type=int, metavar="N", help="of model.onnx, 13 to 21; default 17")
    parser.add_argument("--target", metavar="NAME", help="refuse a model that was quantized for another target")
    parser.add_argument("--name", help="of the stage in the report; default: the name of --save_dir")
    parser.add_argument("--base", help="stage that the report compares it with")


def run(args: argparse.Namespace) -> int:
    """Export; see `add_arguments`."""
    output_op = _output_op(args)
    if not args.from_scratch or args.slim_config:
        args.model_path = slim_section.find_model(args)
    if not args.model_path and not args.from_scratch:
        raise UserError("No --model_path is given.", "Give trained weights, or --from_scratch for random ones.")
    if args.opset is not None and not args.onnx:
        raise UserError(f"--opset {args.opset} is given without --onnx.", "Add --onnx, or leave it out.")
    setup.start(args)
    if args.onnx:
        from paddleseg_slim.cli.quant_result import need_onnx

        need_onnx()
    from paddleseg_slim import config as configs
    from paddleseg_slim.deploy import export
    from paddleseg_slim.tasks import build_task

    started = time.monotonic()
    config = configs.load_config(args.config, args.opts)
    task = build_task(config)
    transforms = task.preprocess().describe()["transforms"]
    shape = export.parse_shape(args.input_shape or config.export.get("input_shape"), task.input_spec()[0].shape[1])
    if args.model_path:
        model = setup.load_model(task, args.model_path, reset_head=args.reset_head)
    else:
        model = task.build_model()
    _check_target(args, model)
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume_flag=""):
        result = export.export(
            model,
            args.save_dir,
            logits=task.logits,
            shape=shape,
            output_op=output_op or task.output_op(),
            transforms=transforms,
            class_names=task.class_names(),
            task=config.task,
            for_fd=args.for_fd or config.export.get("for_fd", False),
            file_format=args.file_format,
        )
        if args.onnx:
            _write_onnx(args, result)
        _write_stage(args, result, time.monotonic() - started)
    runner.log("Loaded again: the largest difference is %.1e of the range of the logits.", result.error)
    runner.log("The inference model is saved in %s (%s).", result.folder, ", ".join(result.files))
    return 0


def _output_op(args: argparse.Namespace) -> str | None:
    asked = {args.output_op} if args.output_op else set()
    asked |= {"none"} if args.without_argmax and not args.with_softmax else set()
    asked |= {"softmax"} if args.with_softmax else set()
    if len(asked) > 1:
        raise UserError(
            f"Several output operations are asked for: {', '.join(sorted(asked))}.", "Give --output_op alone."
        )
    return next(iter(asked), None)


def _check_target(args: argparse.Namespace, model: Any) -> None:
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.quant.profiles import get_profile
    from paddleseg_slim.quant.ptq import check_target

    if args.target is None:
        return
    get_profile(args.target)
    if isinstance(model, GraphLayer):
        check_target(model, args.target)


def _write_onnx(args: argparse.Namespace, result: ExportResult) -> None:
    from paddleseg_slim.deploy.prepare import add_onnx
    from paddleseg_slim.quant.profiles import get_profile
    from paddleseg_slim.quant.ptq import target_of

    target = target_of(result.layer)
    options = get_profile(target).file_options() if target else {}
    path = add_onnx(result.folder, result.layer, opset=args.opset or 17, **options)
    runner.log("%s%s", path, f", quantized for the target {target}" if target else "")


def _write_stage(args: argparse.Namespace, result: ExportResult, seconds: float) -> None:
    from paddleseg_slim.deploy.runtimes.machine import describe_machine
    from paddleseg_slim.graph import cost
    from paddleseg_slim.report import Stage, file_sizes, write_stage

    shape = tuple(result.deploy.input_shape)
    fixed = (1, *shape[1:])
    counted = cost(result.layer.eval_graph, [fixed]) if min(fixed) > 0 else None
    write_stage(
        result.folder,
        Stage(
            name=args.name or result.folder.resolve().name,
            kind="export",
            command=shlex.join(["python", *sys.argv]),
            params=sum(int(tensor.size) for _, tensor in result.layer.tensors()),
            macs=counted.macs if counted else None,
            files=file_sizes(result.folder, *result.files, *(["model.onnx"] if args.onnx else [])),
            base=args.base,
            environment=describe_machine(),
            seconds=seconds,
            input_shape=fixed if counted else (),
        ),
    )

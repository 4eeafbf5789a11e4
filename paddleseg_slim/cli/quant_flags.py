"""Flags that ``quant`` and ``post_quant`` share, and what they become."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from paddleseg_slim.cli import evaluation
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.quant.ptq import QuantSettings
    from paddleseg_slim.tasks.base import Task

OPS = {
    "conv2d": ("conv2d",),
    "depthwise_conv2d": ("depthwise_conv2d",),
    "conv2d_transpose": ("conv2d_transpose", "depthwise_conv2d_transpose"),
    "mul": ("matmul", "addmm"),
    "matmul": ("matmul", "addmm"),
    "matmul_v2": ("matmul", "addmm"),
    "linear": ("matmul", "addmm"),
    "Conv2D": ("conv2d", "depthwise_conv2d"),
    "Conv2DTranspose": ("conv2d_transpose", "depthwise_conv2d_transpose"),
    "Linear": ("matmul", "addmm"),
}
"""``quantize_op_types`` and ``quantizable_layer_type`` of PaddleSlim -> ops of the graph."""


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """What is quantized, to how many bits, for which engine."""
    group = parser.add_argument_group("quantization")
    group.add_argument("--target", metavar="NAME", help="cpu, cpu-vnni, openvino, openvino-vnni, "
                       "tensorrt, generic; default by device")  # fmt: skip
    group.add_argument("--weight_bits", type=int, metavar="N", help="2 to 8; default: the target's")
    group.add_argument("--activation_bits", type=int, metavar="N", help="2 to 8; default: the target's")
    group.add_argument("--weight_quantize_type", default="channel_wise_abs_max", metavar="TYPE",
                       help="channel_wise_abs_max (default) or abs_max")  # fmt: skip
    group.add_argument("--quantize_op_types", "--quantizable_layer_type", nargs="+", choices=sorted(OPS),
                       metavar="OP", help="only these, for example conv2d depthwise_conv2d mul")  # fmt: skip
    group.add_argument("--skip", "--not_quant_pattern", nargs="+", default=[], metavar="REGEX",
                       help="layers that stay float")  # fmt: skip
    group.add_argument("--all_layers", action="store_true", help="quantize logits and tiny layers too")
    group.add_argument("--equalize", action="store_true", help="even out channel ranges between layers first")


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Which images the ranges come from, and by which rule."""
    group = parser.add_argument_group("calibration")
    group.add_argument("--observer", "--algo", default="auto", metavar="NAME",
                       help="auto (default), abs_max, min_max, avg, hist, kl, mse, emd")  # fmt: skip
    group.add_argument("--hist_percent", type=float, default=0.99999, metavar="P", help="share that hist keeps")
    group.add_argument("--batch_nums", type=int, default=10, metavar="N", help="calibration batches; default 10")
    group.add_argument("--calibration_set", choices=("train", "val"), default="train",
                       help="list of the calibration images; default train")  # fmt: skip
    evaluation.add_engine(parser, "--engine")
    group.add_argument("--no_bias_correction", action="store_true", help="leave the biases as they are")


def target_of(args: argparse.Namespace, device: str) -> str:
    """The target by ``--target``, by default the one of the device."""
    return args.target or ("tensorrt" if device == "gpu" else "cpu")


def settings_of(args: argparse.Namespace, device: str) -> QuantSettings:
    """The settings by the flags.

    Raises:
        UserError: a flag names something unknown.
    """
    from paddleseg_slim.quant.calibrate import Choice
    from paddleseg_slim.quant.observers import OBSERVERS
    from paddleseg_slim.quant.profiles import get_profile
    from paddleseg_slim.quant.ptq import QuantSettings

    target = target_of(args, device)
    get_profile(target).with_bits(args.weight_bits, args.activation_bits)
    if args.observer != "auto":
        OBSERVERS.get(args.observer)
    if not 0.5 < args.hist_percent <= 1:
        raise UserError(f"--hist_percent is {args.hist_percent}.", "Give a share above 0.5, at most 1.")
    ops = [op for name in args.quantize_op_types or [] for op in OPS[name]]
    return QuantSettings(
        target=target,
        weight_bits=args.weight_bits,
        activation_bits=args.activation_bits,
        weight_type=args.weight_quantize_type,
        skip=tuple(args.skip),
        ops=tuple(ops) or None,
        all_layers=args.all_layers,
        equalize=args.equalize,
        choice=Choice(args.observer, args.hist_percent, bias_correction=not args.no_bias_correction),
    )


def float_model(args: argparse.Namespace, task: Task, shape: tuple[int, ...]) -> GraphLayer:
    """The float model of ``--model_path`` (``--model_dir``) as a graph.

    Raises:
        UserError: there is none, it does not fit, or it is quantized already.
    """
    import paddle

    from paddleseg_slim.cli.setup import load_model
    from paddleseg_slim.graph import GraphLayer, capture
    from paddleseg_slim.quant.ptq import refuse_quantized

    paddle.seed(args.seed)
    if args.model_path:
        model = load_model(task, args.model_path, reset_head=args.reset_head)
    elif args.from_scratch:
        model = task.build_model()
    else:
        raise UserError("No --model_path is given.", "Give trained weights (--from_scratch quantizes random ones).")
    if not isinstance(model, GraphLayer):
        model = capture(model, task.input_spec(), fixed_size=(shape[2], shape[3]))
    refuse_quantized(model)
    return model

"""Export: a model as Paddle Inference files with a ``deploy.yaml``, loaded again and compared before it is done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_slim.deploy.description import FILE_NAME, FILE_NAMES, Deploy, write_deploy
from paddleseg_slim.deploy.head import HEADS, OUTPUT_DTYPES, relative_error, with_head
from paddleseg_slim.deploy.runtimes import load
from paddleseg_slim.errors import SlimError, UserError
from paddleseg_slim.graph import FILE_FORMATS, GraphLayer, capture, export_inference

TOLERANCE = 1e-4
"""Largest error of the exported file, relative to the range of the logits."""

_ROUNDING, _REACTIONS = 1e-5, 4
"""A change of the images as small as what an engine rounds otherwise, and how many times as far as the model's own
reaction to it the file may be: where a quantizer steps, one bit decides between two levels."""

_MOST = 0.05
"""Error that no reaction excuses."""

CHECK_SIZES = ((128, 160), (256, 224))
"""Heights and widths at which a file with dynamic ones is compared with its model."""

STRIDES = (8, 16, 32, 64)

Shape = tuple[int, int, int, int]
"""``(N, C, H, W)``; -1 is an axis of any length."""


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        folder: where.
        files: names of the program, its weights and the description, in this order.
        deploy: the description.
        error: largest difference to the model, relative to the range of its logits.
        layer: the graph that was written, with its output operation.
    """

    folder: Path
    files: tuple[str, ...]
    deploy: Deploy
    error: float
    layer: GraphLayer


def parse_shape(sides: Sequence[int | None] | None, channels: int = 3) -> Shape:
    """Read ``--input_shape`` or ``export.input_shape``: N C H W, or H W; None, 0 or less is any length.

    Raises:
        UserError: another number of values, or another number of channels than the model takes.
    """
    values = [-1 if side is None or side < 1 else side for side in sides or (None, channels, None, None)]
    if len(values) == 2:
        values = [-1, channels, *values]
    if len(values) != 4:
        raise UserError(f"The input shape has {len(values)} values.", "Give N C H W, with -1 for any length, or H W.")
    if values[1] != channels:
        raise UserError(f"The input shape has {values[1]} channels, the model takes {channels}.", "Correct the second.")
    return values[0], values[1], values[2], values[3]


def filled(shape: Sequence[int], described: Sequence[int]) -> Shape:
    """``shape`` with the lengths of ``described`` where it leaves them open."""
    batch, channels, height, width = (own if own > 0 else other for own, other in zip(shape, described))
    return batch, channels, height, width


def export(
    model: nn.Layer,
    folder: str | os.PathLike[str],
    *,
    logits: Callable[[Any], Any],
    shape: Shape = (-1, 3, -1, -1),
    described: Shape | None = None,
    output_op: str = "argmax",
    transforms: Sequence[dict[str, Any]] = (),
    class_names: Sequence[str] = (),
    task: str = "segmentation",
    for_fd: bool = False,
    file_format: str = "json",
) -> ExportResult:
    """Export a model.

    Args:
        model: any layer of one input, or a GraphLayer.
        folder: where; what an earlier export left in it goes, its ONNX file included, other files stay.
        logits: picks the main logits among the model's outputs.
        shape: of the input.
        described: for the description, where ``shape`` leaves lengths open; default: it says that they are.
        output_op: ``argmax``, ``softmax`` or ``none``.
        transforms: preprocessing, for the description.
        class_names: for the description.
        task: for the description.
        for_fd: the names FastDeploy expects: ``inference.json``, ``inference.yml``.
        file_format: ``json``, or ``pdmodel`` for programs made for Paddle 2.

    Raises:
        UserError: the model cannot be captured, does not run at this shape, or has an op that the format lacks.
        SlimError: the file written cannot be loaded (the disk is full).
        RuntimeError: the file written does not give what the model gives; nothing is left of it.
    """
    model.eval()
    references = reference_runs(model, logits, shape, output_op)
    layer = model if isinstance(model, GraphLayer) else _captured(model, shape)
    headed = with_head(layer, logits, output_op)
    name, description = ("inference", "inference.yml") if for_fd else ("model", FILE_NAME)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export.", suffix=".tmp", dir=target) as work:
        written = export_inference(headed, Path(work) / name, input_shapes=[shape], file_format=file_format)
        try:
            error = compare(written[0], references, output_op)
        except UserError as problem:  # Paddle says nothing when a disk is full
            cause = f"The file just written cannot be loaded: {problem.cause}"
            raise SlimError(cause, "See that there is room on the disk, and export again.") from problem
        if not error <= tolerance(references):  # NaN and infinity too
            raise RuntimeError(f"the exported file differs from the model by {error:.2e} of the range of its logits")
        _remove_export(target)
        for path in written:
            os.replace(path, target / path.name)
    deploy = Deploy(
        model=written[0].name,
        params=written[1].name,
        transforms=list(transforms),
        input_shape=list(filled(shape, described or shape)),
        output_op=output_op,
        output_dtype=OUTPUT_DTYPES[output_op],
        num_classes=len(class_names),
        class_names=list(class_names),
        task=task,
    )
    write_deploy(target, deploy, description)
    return ExportResult(target, (*(path.name for path in written), description), deploy, error, headed)


def _remove_export(folder: Path) -> None:
    """Remove an exported model: the description first, so that a kill never leaves it with another model's files."""
    programs = [f"{name}{suffix}" for name in ("model", "inference") for suffix in FILE_FORMATS.values()]
    weights = ("model.pdiparams", "inference.pdiparams", "model.onnx.data")
    for file in (*FILE_NAMES, "model.onnx", *programs, *weights):
        (folder / file).unlink(missing_ok=True)


def _captured(model: nn.Layer, shape: Shape) -> GraphLayer:
    sides = [None if side < 0 else side for side in shape]
    return capture(model, [paddle.static.InputSpec(sides, "float32", "img")])


def check_shapes(shape: Shape) -> list[Shape]:
    """The shapes at which a file is compared with its model: its own, or two where it leaves sides open."""
    sizes = CHECK_SIZES if shape[2] < 0 or shape[3] < 0 else ((shape[2], shape[3]),)
    sides = [tuple(own if own > 0 else free for own, free in zip(shape[2:], size)) for size in sizes]
    batches = [1, 2] if len(sides) == 2 else [1]
    return [
        (shape[0] if shape[0] > 0 else batch, shape[1], height, width) for batch, (height, width) in zip(batches, sides)
    ]


@dataclass(frozen=True)
class Reference:
    """What the model gives for some images.

    Attributes:
        images: float32 ``[N, C, H, W]``.
        logits: of them.
        reaction: `relative_error` of the logits of images that differ by rounding.
    """

    images: np.ndarray
    logits: np.ndarray
    reaction: float


def reference_runs(model: nn.Layer, logits: Callable[[Any], Any], shape: Shape, output_op: str) -> list[Reference]:
    """Run the model at each of `check_shapes`.

    Raises:
        UserError: it does not run; the remedy names the next size at which it does, if there is one.
    """
    references = []
    for wanted in check_shapes(shape):
        try:
            images = _images(wanted)
            given, near = (logits(_run(model, x)).numpy() for x in (images, images * np.float32(1 + _ROUNDING)))
        except _SHAPE_ERRORS as error:
            reason = next(iter(str(error).strip().splitlines()[-1:]), type(error).__name__)
            raise UserError(
                f"The model does not run at {wanted[2]}x{wanted[3]} (height x width): {reason.strip()[:200]}",
                _next_size(model, wanted),
            ) from error
        references.append(Reference(images, given, relative_error(given, HEADS[output_op](near), output_op)))
    return references


_SHAPE_ERRORS = (ValueError, RuntimeError, TypeError, AssertionError, UserError)
"""What Paddle's kernels, models and captured graphs raise at a size that does not suit them."""


def _next_size(model: nn.Layer, shape: Shape) -> str:
    for stride in STRIDES:
        height, width = (-(-side // stride) * stride for side in shape[2:])
        try:
            _run(model, _images((shape[0], shape[1], height, width)))
        except _SHAPE_ERRORS:
            continue
        return f"The next size at which it runs is {height}x{width}: give it with --input_shape."
    return "Give another --input_shape."


def _images(shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _run(model: nn.Layer, images: np.ndarray) -> Any:
    with paddle.no_grad():
        return model(paddle.to_tensor(images))


def tolerance(references: Sequence[Reference]) -> float:
    """Largest error of an exported file of the model that gave ``references``."""
    return max(TOLERANCE, min(_MOST, _REACTIONS * max(reference.reaction for reference in references)))


def compare(program: Path, references: Sequence[Reference], output_op: str) -> float:
    """Run the exported file in Paddle Inference on the images of `reference_runs`; the largest `relative_error`."""
    runtime = load(program, "paddle")
    name = runtime.inputs[0].name
    return max(relative_error(r.logits, runtime.run({name: r.images})[0], output_op) for r in references)

"""`capture`: any `paddle.nn.Layer` -> a `GraphLayer` with a train-mode and an eval-mode graph over its parameters."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_slim import compat
from paddleseg_slim.errors import SlimError, UserError
from paddleseg_slim.graph.edit import remove_dead_nodes
from paddleseg_slim.graph.ir import Graph
from paddleseg_slim.graph.layer import GraphLayer, output_tensors
from paddleseg_slim.graph.shapes import DataDependent
from paddleseg_slim.graph.trace import Tracer, plain_attributes, prune_guards

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest difference to the layer, relative to the largest output: some scalar divisions differ in the last bit."""

SIZES = ((64, 96), (128, 160), (224, 256), (320, 384))
"""Pairs of sizes for dynamic axes at which a capture is verified: the first pair at which the layer itself runs."""


def capture(
    layer: nn.Layer,
    input_spec: Sequence[Any],
    *,
    verify: bool = True,
    fixed_size: int | tuple[int, int] | None = None,
) -> GraphLayer:
    """Capture ``layer`` in train and in eval mode.

    The GraphLayer shares the parameters of ``layer`` (the same objects, under the same names); ``layer`` keeps its
    mode and statistics.

    Args:
        layer: any layer. A Python ``if`` on the data in tensors becomes a selection between both branches
            (``origin`` is ``to_static`` then, and a warning says so); a ``while`` on data is refused.
        input_spec: one `paddle.static.InputSpec` an input; None is a dynamic axis.
        verify: compare both graphs with the layer at two input sizes.
        fixed_size: (height, width) to capture at when the model cannot be captured with dynamic ones.

    Raises:
        UserError: the layer cannot be captured; the cause names the place in its code.
    """
    specs = list(input_spec)
    try:
        return _capture_dynamic(layer, specs, verify)
    except SlimError as error:
        fixed = _with_size(specs, fixed_size)
        if fixed is None:
            raise UserError(
                f"{type(layer).__name__} cannot be captured: {error.cause}",
                "Give a fixed input size (InputSpec([None, 3, 512, 512])), or capture the sub-layers that allow it.",
            ) from error
        logger.warning("%s is captured at the fixed size %s: %s", type(layer).__name__, fixed_size, error.cause)
        return _capture(layer, fixed, verify, "fixed")


def _capture_dynamic(layer: nn.Layer, specs: Sequence[Any], verify: bool) -> GraphLayer:
    """By a plain trace; through `to_static` when the model decides by the data in tensors."""
    try:
        return _capture(layer, specs, verify, "dynamic")
    except DataDependent as error:
        try:
            result = _capture(layer, specs, verify, "to_static")
        except SlimError as second:
            raise UserError(f"{error.cause} Through to_static: {second.cause}", second.remedy) from second
        logger.warning(
            "%s is captured through to_static, both branches are computed and one is selected: %s",
            type(layer).__name__,
            error.cause,
        )
        return result


def _with_size(specs: Sequence[Any], size: int | tuple[int, int] | None) -> list[Any] | None:
    """The specs with ``size`` for dynamic axes behind the first; None when there is no size or nothing dynamic."""
    if size is None or not any(-1 in spec.shape[1:] for spec in specs):
        return None
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    fixed = []
    for spec in specs:
        shape = list(spec.shape)
        spatial = len(shape) - len(sizes)
        shape = [
            sizes[axis - spatial] if known == -1 and axis >= max(spatial, 1) else known
            for axis, known in enumerate(shape)
        ]
        fixed.append(paddle.static.InputSpec(shape, spec.dtype, spec.name))
    return fixed


def _capture(layer: nn.Layer, specs: Sequence[Any], verify: bool, origin: str) -> GraphLayer:
    examples = _examples(layer, specs)
    names = _stored_names(layer)
    tensors: dict[str, Any] = {}
    graphs = {}
    with _unchanged(layer):
        for training in (True, False):
            layer.train() if training else layer.eval()
            shapes = [tensor.shape for tensor in examples[0]]
            graphs[training] = _trace(layer, specs, shapes, names, tensors, origin == "to_static")
    result = _assemble(layer, graphs[True], graphs[False], tensors, origin)
    for training in (True, False) if verify else ():
        for inputs in examples if origin != "fixed" else examples[:1]:
            _verify(layer, result, inputs, training)
    result.training = layer.training
    return result


def _stored_names(layer: nn.Layer) -> dict[int, str]:
    """Structured name of every tensor that a layer holds, also as a plain attribute, by the id of the tensor."""
    names: dict[int, str] = {}
    layers = list(layer.named_sublayers(include_self=True))
    for tables in ("_parameters", "_buffers", "__dict__"):
        for path, item in layers:
            for leaf, tensor in getattr(item, tables).items():
                for key, part in _tensors_in(leaf, tensor):
                    names.setdefault(id(part), f"{path}.{key}" if path else key)
    return names


def _walk(layer: nn.Layer, path: str = "") -> Iterator[tuple[str, nn.Layer]]:
    """Every layer under every name: one that is used at two places comes twice, as in its ``state_dict``."""
    yield path, layer
    for name, child in layer._sub_layers.items():
        if child is not None:
            yield from _walk(child, f"{path}.{name}" if path else name)


def _tensors_in(name: str, item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, paddle.Tensor):
        yield name, item
    elif isinstance(item, (list, tuple)):
        for index, part in enumerate(item):
            yield from _tensors_in(f"{name}_{index}", part)


def _trace(
    layer: nn.Layer,
    specs: Sequence[Any],
    shapes: Sequence[Any],
    names: dict[int, str],
    tensors: dict[str, Any],
    converted: bool = False,
) -> Graph:
    """Trace one mode; parameters get their structured names, and ``tensors`` gains them."""
    try:
        graph, stored, updates = Tracer(layer, specs, shapes, names.values(), converted).trace()
    except SlimError:
        raise
    except Exception as error:  # whatever the model's own code raises on symbols
        raise UserError(f"tracing it failed: {_reason(error)}", "Give a fixed input size.") from error
    parameters = {}
    for value, tensor in stored:
        value.name = names.setdefault(id(tensor), f"constants.{len(tensors)}")
        tensors[value.name] = tensor
        parameters[value.name] = value
    graph.parameters = parameters
    for tensor, value in updates:
        name = names.setdefault(id(tensor), f"constants.{len(tensors)}")
        tensors[name] = tensor
        graph.updates[name] = value
    prune_guards(graph)
    remove_dead_nodes(graph)
    graph.check()
    return graph


def _reason(error: Exception | None) -> str:
    """The line of an exception that says why; Paddle puts a C++ stack around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = next((line for line in lines if re.match(r"\(?(\w+Error|InvalidArgument|Unimplemented)\b", line)), None)
    return (found or (lines or [type(error).__name__])[0])[:300]


def _assemble(layer: nn.Layer, train: Graph, evaluation: Graph, tensors: dict[str, Any], origin: str) -> GraphLayer:
    result = GraphLayer(train, evaluation, origin=origin)
    for path, item in _walk(layer):
        for leaf, tensor in [*item._parameters.items(), *item._buffers.items()]:
            if tensor is not None:
                result.add_tensor(
                    f"{path}.{leaf}" if path else leaf, tensor, leaf not in item._non_persistable_buffer_names_set
                )
    known = {name for name, _ in result.tensors()}
    for name, tensor in tensors.items():
        if name not in known:
            result.add_tensor(name, tensor, persistable=False)
    return result


def _examples(layer: nn.Layer, specs: Sequence[Any]) -> list[list[Any]]:
    """Two sets of example inputs of different sizes at which the layer runs in eval mode.

    Raises:
        UserError: it runs at none of the sizes tried.
    """
    failure: Exception | None = None
    for sizes in SIZES:
        try:
            sets = [_example(specs, size, batch) for batch, size in zip((2, 3), (sizes, (sizes[1], sizes[0])))]
            with _unchanged(layer), paddle.no_grad():
                layer.eval()
                for inputs in sets:
                    layer(*inputs)
            return sets
        except Exception as error:  # the layer's own complaint about this size
            failure = error
    raise UserError(
        f"it does not run on inputs of its input_spec: {_reason(failure)}",
        "Check the number, shapes and types of the inputs.",
    )


def _example(specs: Sequence[Any], size: tuple[int, int], batch: int) -> list[Any]:
    generator = np.random.default_rng(0)
    inputs = []
    for spec in specs:
        shape = [
            known if known != -1 else batch if axis == 0 else size[(axis - len(spec.shape)) % 2]
            for axis, known in enumerate(spec.shape)
        ]
        dtype = compat.dtype_name(spec.dtype)
        data = (
            generator.standard_normal(shape)
            if dtype.startswith(("float", "bfloat"))
            else generator.integers(0, 2, shape)
        )
        inputs.append(paddle.to_tensor(data.astype("float32")).astype(dtype))
    return inputs


@contextmanager
def _unchanged(layer: nn.Layer) -> Iterator[None]:
    """Restore mode, statistics and random state afterwards."""
    modes = [(item, item.training) for item in layer.sublayers(include_self=True)]
    fixed = [tensor for tensor in [*layer.parameters(), *layer.buffers()] if tensor.stop_gradient]
    saved = [tensor.clone() for tensor in fixed]
    random = paddle.get_rng_state()
    try:
        with plain_attributes(layer):
            yield
    finally:
        paddle.set_rng_state(random)
        for item, training in modes:
            item.training = training
        with paddle.no_grad():
            for tensor, old in zip(fixed, saved):
                tensor.set_value(old)


def _verify(layer: nn.Layer, captured: GraphLayer, inputs: Sequence[Any], training: bool) -> None:
    """Compare outputs and statistics of one run with the same random numbers.

    Raises:
        UserError: they differ.
    """
    results = []
    for item in (layer, captured):
        with _unchanged(layer), _unchanged(captured), paddle.no_grad():
            item.train() if training else item.eval()
            paddle.seed(0)
            try:
                outputs = [tensor.numpy() for tensor in output_tensors(item(*inputs))]
            except SlimError:
                raise
            except Exception as error:
                if item is layer:  # it runs in eval mode, so this is its own limit in train mode
                    raise UserError(
                        f"it does not run in train mode: {_reason(error)}", "Check the input size."
                    ) from error
                raise UserError(f"its graph does not run: {_reason(error)}", "Capture it at a fixed size.") from error
            state = item.state_dict().values()
            statistics = [tensor.numpy() for tensor in state if tensor.stop_gradient] if training else []
            results.append(outputs + statistics)
    mode, sizes = "train" if training else "eval", [list(tensor.shape) for tensor in inputs]
    for expected, got in zip(*results):
        difference = max_difference(expected, got)
        if not difference <= TOLERANCE:
            raise UserError(
                f"its graph in {mode} mode differs from the layer by {difference:.2g} at input size {sizes}.",
                "Capture it at a fixed size; in-place calls whose result is not assigned cannot be captured.",
            )


def max_difference(expected: np.ndarray, got: np.ndarray) -> float:
    """Largest difference relative to the largest magnitude (at least 1); infinite for another shape or new NaNs."""
    if expected.shape != got.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    first, second = expected.astype("float64"), got.astype("float64")
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        return float("inf")
    scale = max(1.0, float(np.nanmax(np.abs(first))) if not np.isnan(first).all() else 1.0)
    difference = np.abs(first - second)
    return float(np.nanmax(difference)) / scale if not np.isnan(difference).all() else 0.0

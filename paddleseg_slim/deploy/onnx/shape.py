"""Shapes: reshape, transpose, concat, split, slice, expand, and the constants."""

from __future__ import annotations

import numpy as np

from paddleseg_slim.deploy.onnx.builder import DTYPES, Builder, Size, writes
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value
from paddleseg_slim.graph.ir import slot_values

_FAR = np.iinfo(np.int64).max


def _positive(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


@writes("shape", "shape64")
def _shape(b: Builder, node: Node) -> str:
    source = node.input_values()[0]
    if node.out.dtype == "int64":
        return b.op("Shape", [b.sized(source)], node, last=True)
    return b.op("Cast", [b.op("Shape", [b.sized(source)], node)], node, last=True, to=DTYPES[node.out.dtype])


@writes("numel")
def _numel(b: Builder, node: Node) -> str:
    return b.op("Size", [b.sized(node.input_values()[0])], node, last=True)


@writes("reshape")
def _reshape(b: Builder, node: Node) -> str:
    items = b.numbers(node, "shape")
    unknown = [place for place, item in enumerate(items) if not isinstance(item, int)]
    if len(unknown) == 1 and isinstance(items[unknown[0]], Size) and -1 not in items:
        items[unknown[0]] = -1  # the others decide it
    shape = b.join(items, node)
    return b.op("Reshape", [*b.refs(node, "x"), shape], node, last=True)


@writes("flatten")
def _flatten(b: Builder, node: Node) -> str:
    x = node.value("x")
    rank = b.rank(x)
    start, stop = (_positive(int(node.attrs[key]), rank) for key in ("start_axis", "stop_axis"))
    shape = [*([0] * start), -1, *b.dims(x, stop + 1, rank, node)]
    return b.op("Reshape", [b.ref(x), b.join(shape, node)], node, last=True)


@writes("squeeze")
def _squeeze(b: Builder, node: Node) -> str:
    x = node.value("x")
    rank, shape = b.rank(x), b.shape(x)
    axes = [_positive(axis, rank) for axis in b.known_integers(node, "axis")]
    axes = axes or [axis for axis in range(rank) if shape[axis] == 1]
    axes = [axis for axis in axes if shape[axis] in (1, -1)]
    if not axes:
        return b.ref(x)
    return b.op("Squeeze", [b.ref(x), b.integers(axes)], node, last=True)


@writes("unsqueeze")
def _unsqueeze(b: Builder, node: Node) -> str:
    return b.op("Unsqueeze", [*b.refs(node, "x"), b.integers(b.known_integers(node, "axis"))], node, last=True)


@writes("transpose")
def _transpose(b: Builder, node: Node) -> str:
    return b.op("Transpose", b.refs(node, "x"), node, last=True, perm=[int(axis) for axis in node.attrs["perm"]])


@writes("concat")
def _concat(b: Builder, node: Node) -> str:
    names = [b.ref(value) for value in slot_values(node.inputs["x"])]
    axis = int(np.asarray(b.known(node, "axis", 0)).reshape(-1)[0])
    return b.op("Concat", names, node, last=True, axis=axis)


@writes("stack")
def _stack(b: Builder, node: Node) -> str:
    values = slot_values(node.inputs["x"])
    axis = _positive(int(node.attrs["axis"]), b.rank(values[0]) + 1)
    parts = [b.op("Unsqueeze", [b.ref(value), b.integers([axis])], node) for value in values]
    return b.op("Concat", parts, node, last=True, axis=axis)


@writes("split")
def _split(b: Builder, node: Node) -> list[str]:
    x = node.value("x")
    axis = _positive(int(np.asarray(b.known(node, "axis", 0)).reshape(-1)[0]), b.rank(x))
    sections = b.known_integers(node, "sections")
    if -1 in sections:
        size = b.shape(x)[axis]
        if size == -1:
            raise UserError(f"Node {node.name!r} splits an axis of any length.", "Give a fixed --input_shape.")
        sections[sections.index(-1)] = size - sum(sections) - 1
    return b.split([b.ref(x), b.integers(sections)], node, axis)


@writes("split_with_num")
def _split_with_num(b: Builder, node: Node) -> list[str]:
    x = node.value("x")
    axis = _positive(int(np.asarray(b.known(node, "axis", 0)).reshape(-1)[0]), b.rank(x))
    size, count = b.shape(x)[axis], int(node.attrs["num"])
    sizes = [] if size == -1 else [b.integers([size // count] * count)]
    return b.split([b.ref(x), *sizes], node, axis)


@writes("unbind", "unstack")
def _unbind(b: Builder, node: Node) -> list[str]:
    x = node.value("input" if node.op == "unbind" else "x")
    axis = _positive(int(node.attrs["axis"]), b.rank(x))
    return [
        b.op("Gather", [b.ref(x), b.scalar(index, "int64")], node, output=value.name, axis=axis)
        for index, value in enumerate(node.output_values())
    ]


@writes("slice")
def _slice(b: Builder, node: Node) -> str:
    x, axes = node.value("input"), [int(axis) for axis in node.attrs["axes"]]
    gone = [int(axis) for axis in node.attrs.get("decrease_axis") or []]
    starts, ends = b.numbers(node, "starts"), b.numbers(node, "ends")
    source, start, end = x.producer, starts[0], ends[0]
    known = isinstance(start, int) and isinstance(end, int) and min(start, end) >= 0
    if known and source is not None and source.op == "shape64" and len(axes) == 1:
        return _sizes(b, node, source.input_values()[0], int(start), int(end), bool(gone))  # type: ignore[arg-type]
    name = b.ref(x)
    if gone == axes and len(axes) == 1 and isinstance(starts[0], int):
        return b.op("Gather", [name, b.scalar(starts[0], "int64")], node, last=True, axis=axes[0])
    bounds = [b.join(items, node) for items in (starts, ends)]
    part = b.op("Slice", [name, *bounds, b.integers(axes)], node, last=not gone)
    return b.op("Squeeze", [part, b.integers(gone)], node, last=True) if gone else part


def _sizes(b: Builder, node: Node, value: Value, start: int, end: int, scalar: bool) -> str:
    """``shape(x)[start:end]`` as one Shape node where the opset has that."""
    rank = b.rank(value)
    part = b.join(b.dims(value, start, min(end, rank), node), node)
    return b.op("Squeeze", [part, b.integers([0])], node, last=True) if scalar else part


@writes("strided_slice")
def _strided_slice(b: Builder, node: Node) -> str:
    bounds = [b.join(b.numbers(node, name), node) for name in ("starts", "ends")]
    axes, steps = b.integers([int(axis) for axis in node.attrs["axes"]]), b.join(b.numbers(node, "strides"), node)
    return b.op("Slice", [*b.refs(node, "x"), *bounds, axes, steps], node, last=True)


@writes("flip")
def _flip(b: Builder, node: Node) -> str:
    axes = [int(axis) for axis in node.attrs["axis"]]
    bounds = [b.integers([number] * len(axes)) for number in (-1, -_FAR, -1)]
    start, end, step = bounds
    return b.op("Slice", [*b.refs(node, "x"), start, end, b.integers(axes), step], node, last=True)


@writes("roll")
def _roll(b: Builder, node: Node) -> str:
    """Along each axis, the last ``shift`` elements, then the others."""
    name, x = b.ref(node.value("x")), node.value("x")
    shifts, axes = b.known_integers(node, "shifts"), [int(axis) for axis in node.attrs["axis"]]
    if not axes:
        raise UserError(f"Node {node.name!r} rolls a flattened tensor; ONNX export lacks that.", "Give its axis.")
    for index, (shift, axis) in enumerate(zip(shifts, axes)):
        size = b.shape(x)[axis]
        if size != -1:
            shift %= size
        cut = b.integers([-shift])
        tail = b.op("Slice", [name, cut, b.integers([_FAR]), b.integers([axis])], node)
        head = b.op("Slice", [name, b.integers([0]), cut, b.integers([axis])], node)
        parts = [tail, head] if shift else [name]
        name = b.op("Concat", parts, node, last=index == len(axes) - 1, axis=axis)
    return name


@writes("expand")
def _expand(b: Builder, node: Node) -> str:
    """-1 keeps an axis, which ONNX says as 1."""
    items = [1 if item == -1 else item for item in b.numbers(node, "shape")]
    return b.op("Expand", [*b.refs(node, "x"), b.join(items, node)], node, last=True)


@writes("expand_as")
def _expand_as(b: Builder, node: Node) -> str:
    like = node.inputs.get("y")
    if isinstance(like, Value):
        shape = b.join(b.dims(like, 0, b.rank(like), node), node)
    else:
        shape = b.integers([1 if size == -1 else int(size) for size in node.attrs["target_shape"]])
    return b.op("Expand", [*b.refs(node, "x"), shape], node, last=True)


@writes("tile")
def _tile(b: Builder, node: Node) -> str:
    x, repeats = node.value("x"), b.numbers(node, "repeat_times")
    name = b.ref(x)
    if all(isinstance(item, int) for item in repeats):
        missing = b.rank(x) - len(repeats)
        repeats = [*([1] * missing), *repeats]
        if missing < 0:
            name = b.op("Unsqueeze", [name, b.integers(list(range(-missing)))], node)
    return b.op("Tile", [name, b.join(repeats, node)], node, last=True)


@writes("full", "full_with_tensor", "full_int_array", "assign_value")
def _constant(b: Builder, node: Node) -> str:
    """Constants too large for the host's table, or of a size that the model computes."""
    if not node.op.startswith("full") or node.op == "full_int_array":
        values = node.attrs["values"] if node.op == "assign_value" else node.attrs["value"]
        array = np.array(values, node.out.dtype)
        return b.constant(array.reshape(node.attrs["shape"]) if node.op == "assign_value" else array)
    number = np.asarray(b.known(node, "value")).reshape(-1)[0]
    return b.op(
        "Expand",
        [b.constant(np.array(number, node.out.dtype)), b.join(b.numbers(node, "shape"), node)],
        node,
        last=True,
    )


@writes("full_like", "ones_like", "zeros_like")
def _full_like(b: Builder, node: Node) -> str:
    x = node.value("x")
    number = {"ones_like": 1, "zeros_like": 0}.get(node.op)
    number = np.asarray(b.known(node, "value")).reshape(-1)[0] if number is None else number
    shape = b.join(b.dims(x, 0, b.rank(x), node), node)
    return b.op("Expand", [b.constant(np.array(number, node.out.dtype)), shape], node, last=True)


@writes("arange")
def _arange(b: Builder, node: Node) -> str:
    bounds = []
    for name in ("start", "end", "step"):
        value = node.inputs.get(name)
        if not isinstance(value, Value):
            bounds.append(b.scalar(node.attrs[name], node.out.dtype))
            continue
        tensor = b.ref(value)
        tensor = tensor if b.rank(value) == 0 else b.op("Reshape", [tensor, b.integers([])], node)
        bounds.append(tensor if value.dtype == node.out.dtype else b.cast(tensor, node, node.out.dtype))
    return b.op("Range", bounds, node, last=True)


@writes("meshgrid")
def _meshgrid(b: Builder, node: Node) -> list[str]:
    values = slot_values(node.inputs["inputs"])
    shape = b.join([size for value in values for size in b.dims(value, 0, 1, node)], node)
    names = []
    for index, (value, out) in enumerate(zip(values, node.output_values())):
        line = [-1 if place == index else 1 for place in range(len(values))]
        row = b.op("Reshape", [b.ref(value), b.integers(line)], node)
        names.append(b.op("Expand", [row, shape], node, output=out.name))
    return names


@writes("pixel_shuffle")
def _pixel_shuffle(b: Builder, node: Node) -> str:
    factor = int(node.attrs["upscale_factor"])
    return b.op("DepthToSpace", b.refs(node, "x"), node, last=True, blocksize=factor, mode="CRD")


@writes("pixel_unshuffle")
def _pixel_unshuffle(b: Builder, node: Node) -> str:
    """SpaceToDepth puts the places of a square before the channels, Paddle the channels before the places."""
    x, factor = node.value("x"), int(node.attrs["downscale_factor"])
    channels = b.shape(x)[1]
    if channels == -1:
        raise UserError(f"Node {node.name!r} unshuffles any number of channels.", "Give a fixed --input_shape.")
    order = np.arange(factor * factor * channels).reshape(-1, channels).T.reshape(-1)
    blocks = b.op("SpaceToDepth", [b.ref(x)], node, blocksize=factor)
    return b.op("Gather", [blocks, b.constant(order.astype(np.int64))], node, last=True, axis=1)


@writes("channel_shuffle", "shuffle_channel")
def _channel_shuffle(b: Builder, node: Node) -> str:
    x, groups = node.value("x"), int(node.attrs.get("groups", node.attrs.get("group", 1)))
    sides = b.dims(x, 2, 4, node)
    apart = b.op("Reshape", [b.ref(x), b.join([0, groups, b.shape(x)[1] // groups, *sides], node)], node)
    swapped = b.op("Transpose", [apart], node, perm=[0, 2, 1, 3, 4])
    return b.op("Reshape", [swapped, b.join([0, b.shape(x)[1], *sides], node)], node, last=True)

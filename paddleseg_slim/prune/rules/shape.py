"""Ops that move elements about: the same is done to their ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_slim.graph.ir import Graph, Node, Value
from paddleseg_slim.prune.ids import FIXED, Factor, Labels, disjoint_sets, expanded, factor_at, moved
from paddleseg_slim.prune.rules.conv import channel_axis
from paddleseg_slim.prune.rules.shuffle import shuffle_behind, to_gather
from paddleseg_slim.prune.walk import RULES, Keep, Split, Walk, attr, listed


def kept_sizes(factor: Factor, keep: Keep) -> dict[int, int]:
    """Size of each axis of ``factor`` once only what ``keep`` says stays."""
    mask = keep(factor.ids)
    every = range(mask.ndim)
    return {a: int(mask.any(axis=tuple(o for o in every if o != i)).sum()) for i, a in enumerate(factor.axes)}


def edit_sizes(walk: Walk, node: Node, argument: str, labels: Labels) -> None:
    """Rewrite the constants of a shape argument that are sizes of labelled axes; -1 and 0 stay."""
    if not labels:
        return

    def change(graph: Graph, node: Node, keep: Keep) -> None:
        for factor in labels:
            for axis, size in kept_sizes(factor, keep).items():
                set_constant(graph, node, argument, axis, size)

    walk.edit(node, change)


def set_constant(graph: Graph, node: Node, argument: str, position: int, size: int) -> None:
    """Set one constant of an integer-list argument, which is an attribute or a list of values made by ``full``."""
    if isinstance(node.attrs.get(argument), (list, tuple)):
        sizes = list(node.attrs[argument])
        if sizes[position] > 0:
            sizes[position] = size
        node.attrs[argument] = sizes
        return
    holder, name = node, argument
    values = listed(node, argument)
    if len(values) == 1 and values[0].producer is not None and values[0].producer.op in ("stack", "concat"):
        holder, name = values[0].producer, "x"
        values = listed(holder, name)
    producer = values[position].producer if position < len(values) else None
    if producer is None or producer.op != "full" or float(producer.attrs["value"]) <= 0:
        return  # computed from the sizes of tensors: follows by itself
    own = Node(graph.fresh_name(f"{node.name}/size"), "full", {}, {**producer.attrs, "value": size})
    old = producer.out
    own.outputs = {next(iter(producer.outputs)): Value(own.name, old.dtype, old.shape, own)}
    graph.nodes.insert(graph.nodes.index(holder), own)
    holder.inputs[name] = [own.out if i == position else value for i, value in enumerate(values)]
    graph.touch()


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match the axes of two shapes of equal size: the shortest runs of axes whose products are equal."""
    result, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right = [], []
        a = b = 1
        while True:
            if a <= b and i < len(before):
                a, i = a * before[i], i + 1
                left.append(i - 1)
            elif j < len(after):
                b, j = b * after[j], j + 1
                right.append(j - 1)
            else:
                break
            if a == b and (right or j >= len(after)):
                break
        result.append((left, right))
    return result


def _without_constant_axes(axes: Sequence[int], ids: np.ndarray) -> Factor | None:
    """A factor without the axes along which its ids do not change; None when one id is all there is."""
    keep = [p for p in range(ids.ndim) if (ids != ids.take([0], axis=p)).any()]
    index = tuple(slice(None) if p in keep else 0 for p in range(ids.ndim))
    return Factor(tuple(axes[p] for p in keep), ids[index]) if keep else None


def reshaped(walk: Walk, node: Node, labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Labels after a reshape from ``before`` to ``after``."""
    matched = blocks(before, after)
    owner = {axis: number for number, (left, _) in enumerate(matched) for axis in left}
    result: list[Factor] = []
    for numbers in disjoint_sets({owner[a] for a in f.axes} for f in labels):
        left = [a for n in numbers for a in matched[n][0]]
        right = [a for n in numbers for a in matched[n][1]]
        mine = [f for f in labels if set(f.axes) <= set(left)]
        if len(mine) > 1:
            walk.pin(tuple(mine), f"{node.name} ({node.op}) merges two axes of channels")
            continue
        ids = expanded(mine[0], left, [before[a] for a in left]).reshape([after[a] for a in right])
        factor = _without_constant_axes(right, ids)
        if factor is None:
            continue
        if len(factor.axes) > 1:
            walk.splits.append(Split(factor.ids, int(np.argmax(factor.ids.shape))))
        result.append(factor)
    return tuple(result)


@RULES.register("reshape", "flatten", "squeeze", "unsqueeze", "view_shape")
def reshape(walk: Walk, node: Node) -> None:
    """Ids are reshaped as the data is; constants of the target follow."""
    x = next(iter(node.input_values()))
    chain = shuffle_behind(walk, node)
    if chain:
        labels: Labels = (Factor((1, 2), walk.of(x)[0].ids.reshape(walk.shape(node.out)[1:3])),)
    else:
        labels = reshaped(walk, node, walk.of(x), walk.shape(x), walk.shape(node.out))
    if node.op == "reshape":
        edit_sizes(walk, node, "shape", labels)
    if chain:  # behind the sizes: where blocks came to be unequal, the ops are replaced
        walk.edit(chain[2], to_gather(labels[0].ids, 1, x.name, chain[1]))
    walk.set(node.out, labels)


@RULES.register("transpose")
def transpose(walk: Walk, node: Node) -> None:
    """Axis ``perm[i]`` goes to ``i``."""
    rank = len(walk.shape(node.out))
    perm = [p % rank for p in node.attrs["perm"]]
    walk.set(node.out, moved(walk.of(node.value("x")), [perm.index(a) for a in range(rank)]))


@RULES.register("concat")
def concat(walk: Walk, node: Node) -> None:
    """Ids are concatenated; on every other axis the inputs must agree."""
    inputs = listed(node, "x")
    rank = len(walk.shape(node.out))
    axes_of = walk.integers(node, "axis")
    axis = (axes_of[0] if axes_of else 0) % rank
    result: list[Factor] = []
    for axes in disjoint_sets(f.axes for value in inputs for f in walk.of(value)):
        if axis not in axes:
            parts = [(tuple(f for f in walk.of(v) if set(f.axes) <= set(axes)), list(walk.shape(v))) for v in inputs]
            parts = [(labels, [1 if a == axis else s for a, s in enumerate(sizes)]) for labels, sizes in parts]
            result.extend(walk.joined(parts, node))
            continue
        pieces = []
        for value in inputs:
            sizes = [walk.shape(value)[a] for a in axes]
            mine = [f for f in walk.of(value) if set(f.axes) <= set(axes)]
            if not mine or len(mine) > 1:
                walk.pin(tuple(mine), f"{node.name} ({node.op}) joins two axes of channels")
                piece = walk.ids.fresh(*sizes)
                walk.ids.pin(piece, f"{node.name} (concat): a part without channels of its own")
            else:
                piece = expanded(mine[0], axes, sizes)
            pieces.append(piece)
        result.append(Factor(axes, np.concatenate(pieces, axis=axes.index(axis))))
    walk.set(node.out, tuple(result))


def _cut(labels: Labels, axis: int, start: int, stop: int) -> Labels:
    result = []
    for factor in labels:
        if axis in factor.axes:
            place = factor.axes.index(axis)
            index = tuple(slice(start, stop) if p == place else slice(None) for p in range(factor.ids.ndim))
            factor = Factor(factor.axes, factor.ids[index])
        result.append(factor)
    return tuple(result)


def _profile(factor: Factor, axis: int, keep: Keep) -> np.ndarray:
    """Which positions of one axis of ``factor`` stay."""
    place = factor.axes.index(axis)
    return np.asarray(keep(factor.ids).any(axis=tuple(p for p in range(factor.ids.ndim) if p != place)))


@RULES.register("split", "split_with_num")
def split(walk: Walk, node: Node) -> None:
    """Ids are cut as the data is; sections become the numbers that stay in each."""
    x = node.value("x")
    rank = len(walk.shape(x))
    axes = walk.integers(node, "axis")
    axis = (axes[0] if axes else 0) % rank
    start = 0
    for value in node.output_values():
        stop = start + walk.shape(value)[axis]
        walk.set(value, _cut(walk.of(x), axis, start, stop))
        start = stop
    factor = factor_at(walk.of(x), axis)
    if factor is None:
        return
    bounds = np.cumsum([walk.shape(v)[axis] for v in node.output_values()])[:-1]

    def change(graph: Graph, node: Node, keep: Keep) -> None:
        sections = [int(part.sum()) for part in np.split(_profile(factor, axis, keep), bounds)]
        if node.op == "split_with_num" and len(set(sections)) > 1:
            node.op = "split"
            node.attrs = {"sections": sections, "axis": axis}
        elif node.op == "split":
            node.inputs.pop("sections", None)
            node.attrs["sections"] = sections

    walk.edit(node, change)


@RULES.register("slice", "strided_slice")
def slice_(walk: Walk, node: Node) -> None:
    """Ids are cut as the data is; bounds become counts of what stays before them."""
    x = next(iter(node.input_values()))
    sizes = walk.shape(x)
    labels = walk.of(x)
    axes = [a % len(sizes) for a in node.attrs["axes"]]
    starts, ends = walk.integers(node, "starts"), walk.integers(node, "ends")
    strides = walk.integers(node, "strides") or [1] * len(axes)
    dropped = [a % len(sizes) for a in attr(node, "decrease_axis") or ()]
    for i, axis in enumerate(axes):
        factor = factor_at(labels, axis)
        if factor is None:
            continue
        if starts is None or ends is None or strides[i] != 1 or (axis in dropped and len(factor.axes) == 1):
            walk.pin((factor,), f"{node.name} ({node.op}) picks them by number")
            labels = tuple(f for f in labels if f is not factor)
            continue
        start, stop, _ = slice(starts[i], ends[i]).indices(sizes[axis])
        if axis in dropped:
            place = factor.axes.index(axis)
            walk.ids.unite_along(factor.ids, place)
            rest = Factor(tuple(a for a in factor.axes if a != axis), factor.ids.take(start, axis=place))
            labels = tuple(rest if f is factor else f for f in labels)
        else:
            _edit_bounds(walk, node, i, factor, axis, (start, stop))
            labels = _cut(labels, axis, start, stop)
    places: list[int | None] = [None if a in dropped else a - sum(d < a for d in dropped) for a in range(len(sizes))]
    walk.set(node.out, moved(labels, places))


def _edit_bounds(walk: Walk, node: Node, i: int, factor: Factor, axis: int, bounds: tuple[int, int]) -> None:
    def change(graph: Graph, node: Node, keep: Keep) -> None:
        profile = _profile(factor, axis, keep)
        for name, bound in zip(("starts", "ends"), bounds):
            bounds_now = list(node.attrs[name])
            bounds_now[i] = int(profile[:bound].sum())
            node.attrs[name] = bounds_now

    if isinstance(node.attrs.get("starts"), (list, tuple)) and isinstance(node.attrs.get("ends"), (list, tuple)):
        walk.edit(node, change)
    else:
        walk.pin((factor,), f"{node.name} ({node.op}): its bounds are computed")


@RULES.register("unbind")
def unbind(walk: Walk, node: Node) -> None:
    """One tensor for each position of an axis, which must keep its size."""
    x = node.value("input")
    rank = len(walk.shape(x))
    axis = int(node.attrs["axis"]) % rank
    factor = factor_at(walk.of(x), axis)
    places: list[int | None] = [None if a == axis else a - (a > axis) for a in range(rank)]
    if factor is not None and len(factor.axes) == 1:
        walk.pin((factor,), f"{node.name} (unbind) takes them one by one")
    elif factor is not None:
        walk.ids.unite_along(factor.ids, factor.axes.index(axis))
    for number, value in enumerate(node.output_values()):
        labels = [f for f in walk.of(x) if f is not factor]
        if factor is not None and len(factor.axes) > 1:
            ids = factor.ids.take(number, axis=factor.axes.index(axis))
            labels.append(Factor(tuple(a for a in factor.axes if a != axis), ids))
        walk.set(value, moved(tuple(labels), places))


@RULES.register("stack")
def stack(walk: Walk, node: Node) -> None:
    """A new axis; on the others the inputs must agree."""
    rank = len(walk.shape(node.out))
    axis = int(node.attrs["axis"]) % rank
    parts = []
    for value in listed(node, "x"):
        sizes = list(walk.shape(value))
        labels = moved(walk.of(value), [a + (a >= axis) for a in range(len(sizes))])
        parts.append((labels, [*sizes[:axis], 1, *sizes[axis:]]))
    walk.set(node.out, walk.joined(parts, node))


def _grown(walk: Walk, node: Node, x: Value, argument: str, repeats: bool) -> None:
    """Axes of size 1 that become longer get ids of their own and follow what they meet; their size is rewritten."""
    before, after = walk.shape(x), walk.shape(node.out)
    shift = len(after) - len(before)
    labels = moved(walk.of(x), [a + shift for a in range(len(before))])
    old = [1] * shift + list(before)
    static = [a for a, size in enumerate(node.out.shape) if size > 1 and old[a] == 1]
    fresh = tuple(Factor((a,), walk.ids.fresh(after[a])) for a in static)
    edit_sizes(walk, node, argument, fresh if repeats else (*labels, *fresh))
    walk.set(node.out, (*labels, *fresh))


@RULES.register("full", "uniform", "gaussian", "full_with_tensor")
def made_to_measure(walk: Walk, node: Node) -> None:
    """A tensor made to a given shape: its axes follow the channels of what they meet, and its size is rewritten."""
    if "int" in node.out.dtype or "bool" in node.out.dtype:
        walk.set(node.out, FIXED)
        return
    labels = tuple(Factor((a,), walk.ids.fresh(s)) for a, s in enumerate(walk.shape(node.out)) if s > 1)
    edit_sizes(walk, node, "shape", labels)
    walk.set(node.out, labels)


@RULES.register("expand")
def expand(walk: Walk, node: Node) -> None:
    """Broadcast to a given shape."""
    _grown(walk, node, node.value("x"), "shape", repeats=False)


@RULES.register("expand_as")
def expand_as(walk: Walk, node: Node) -> None:
    """Broadcast to the shape of ``y``: the result has its channels."""
    x, rank = node.value("x"), len(walk.shape(node.out))
    other = [v for v in node.input_values() if v is not x]
    if not other:
        _grown(walk, node, x, "target_shape", repeats=False)
        return
    shift = rank - len(walk.shape(x))
    left = moved(walk.of(x), [a + shift for a in range(len(walk.shape(x)))])
    sizes = [1] * shift + list(walk.shape(x))
    labels = walk.joined([(left, sizes), (walk.of(other[0]), list(walk.shape(other[0])))], node)
    edit_sizes(walk, node, "target_shape", labels)
    walk.set(node.out, labels)


@RULES.register("tile")
def tile(walk: Walk, node: Node) -> None:
    """Repeat along axes: of a labelled axis its ids repeat."""
    x = node.value("x")
    before, after = walk.shape(x), walk.shape(node.out)
    repeated = [f for f in walk.of(x) if any(after[a + len(after) - len(before)] != before[a] for a in f.axes)]
    if not repeated:
        _grown(walk, node, x, "repeat_times", repeats=True)
        return
    labels = []
    for factor in moved(walk.of(x), [a + len(after) - len(before) for a in range(len(before))]):
        times = [after[a] // s for a, s in zip(factor.axes, factor.ids.shape)]
        labels.append(Factor(factor.axes, np.tile(factor.ids, times)))
    walk.set(node.out, tuple(labels))


@RULES.register("pad", "pad3d")
def pad(walk: Walk, node: Node) -> None:
    """Padding of positions; padded channels are new and stay."""
    x = node.value("x")
    before, after = walk.shape(x), walk.shape(node.out)
    labels = []
    for factor in walk.of(x):
        grown = [a for a in factor.axes if after[a] != before[a]]
        if not grown:
            labels.append(factor)
        elif len(factor.axes) > 1 or node.op != "pad":
            walk.pin((factor,), f"{node.name} ({node.op}) pads them")
        else:
            paddings = walk.integers(node, "paddings") or []
            ends = [walk.ids.fresh(n) for n in paddings[2 * grown[0] : 2 * grown[0] + 2]]
            for ids in ends:
                walk.ids.pin(ids, f"{node.name} (pad): zeros added as channels")
            labels.append(Factor(factor.axes, np.concatenate([ends[0], factor.ids, ends[1]])))
    walk.set(node.out, tuple(labels))


@RULES.register(
    "bilinear_interp", "nearest_interp", "bicubic_interp", "linear_interp", "trilinear_interp", "pool2d", "pool3d",
    "max_pool2d_with_index", "max_pool3d_with_index", "lp_pool2d", "grid_sample", "fractional_max_pool2d",
)  # fmt: skip
def spatial(walk: Walk, node: Node) -> None:
    """Pooling and interpolation: positions are mixed, channels pass."""
    x = node.value("x")
    axis = channel_axis(node, len(walk.shape(x)))
    walk.only(x, [0, axis], node, "positions are mixed")
    labels = tuple(Factor((a,), ids) for a in (0, axis) for ids in [walk.axis(x, a)] if ids is not None)
    for value in node.output_values():
        walk.set(value, labels if len(walk.shape(value)) == len(walk.shape(x)) else FIXED)


@RULES.register("flip", "roll")
def moved_along(walk: Walk, node: Node) -> None:
    """Positions change places along some axes; channels may not."""
    x = node.value("x")
    axes = [a % len(walk.shape(x)) for a in walk.integers(node, "axis") or range(len(walk.shape(x)))]
    walk.pin(tuple(f for f in walk.of(x) if set(f.axes) & set(axes)), f"{node.name} ({node.op}) moves them")
    walk.set(node.out, tuple(f for f in walk.of(x) if not set(f.axes) & set(axes)))


@RULES.register("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold")
def rearranged(walk: Walk, node: Node) -> None:
    """Ops that trade channels for positions or permute them."""
    x = node.value("x")
    axis = channel_axis(node, len(walk.shape(x)))
    walk.only(x, [axis], node, "positions are rearranged")
    ids = walk.axis(x, axis)
    if ids is None:
        walk.set(node.out, FIXED)
        return
    if node.op == "pixel_shuffle":
        block = ids.reshape(-1, int(node.attrs["upscale_factor"]) ** 2)
        walk.ids.unite_along(block, 1)
        ids = block[:, 0]
    elif node.op == "channel_shuffle":
        block = ids.reshape(int(node.attrs["groups"]), -1)
        walk.edit(node, to_gather(block, axis, x.name))
        ids = np.ascontiguousarray(block.T).reshape(-1)
    else:
        ids = np.repeat(ids, walk.shape(node.out)[axis] // len(ids))
    walk.set(node.out, (Factor((axis,), ids),))


@RULES.register("shape", "shape64", "numel")
def sizes_only(walk: Walk, node: Node) -> None:
    """Reads sizes, no data; what is computed from them follows the pruned sizes by itself."""
    walk.set(node.out, FIXED)

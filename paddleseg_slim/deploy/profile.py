"""Where the time of a model goes: time, multiply-accumulates, bytes and arithmetic intensity of every node."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from paddleseg_slim.deploy.onnx_cost import OnnxNodeCost, onnx_costs
from paddleseg_slim.deploy.runtimes import RuntimeOptions, find_model, load
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file, write_json

ENGINES = ("onnxruntime", "openvino")
"""The engines that tell the time of single nodes."""

_HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_ENGINE_MARKS = re.compile(r"(_nchwc|_token_\d+|/WithoutBiases|/sink_port_\d+|_original|_nhwc|_kernel_time)+$")


@dataclass(frozen=True)
class NodeProfile:
    """One node as the engine ran it.

    Attributes:
        name: the graph's name of it; of several fused ones, that of the convolution or matrix product among them.
        op: the engine's operator.
        ms: milliseconds a run.
        share: of the time of all nodes.
        macs: multiply-accumulate operations; 0 for an operator that has none, or that the engine added itself.
        bytes: read and written, weights included, as the file stores them; None where it could not be told.
    """

    name: str
    op: str
    ms: float
    share: float
    macs: int = 0
    bytes: int | None = None

    @property
    def intensity(self) -> float | None:
        """Multiply-accumulates a byte: low means that memory, not arithmetic, sets the time."""
        return self.macs / self.bytes if self.bytes else None

    @property
    def gmacs_per_second(self) -> float:
        """Speed reached, 10^9 multiply-accumulates a second."""
        return self.macs / self.ms / 1e6 if self.ms else 0.0


@dataclass(frozen=True)
class Profile:
    """Nodes, slowest first.

    Attributes:
        nodes: the rows.
        engine: name and version.
        input_shape: of one run.
        threads: CPU threads.
        runs: over which times are medians.
    """

    nodes: tuple[NodeProfile, ...]
    engine: str
    input_shape: tuple[int, ...]
    threads: int
    runs: int

    @property
    def total_ms(self) -> float:
        """Time of all nodes together."""
        return sum(node.ms for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [{**asdict(n), "intensity": n.intensity, "gmacs_per_second": n.gmacs_per_second} for n in self.nodes]
        return {**asdict(self), "nodes": rows, "total_ms": self.total_ms}

    def title(self) -> str:
        """What was measured, in one line."""
        shape = "x".join(map(str, self.input_shape))
        return f"{self.engine}, {shape}, {self.threads} threads, {self.total_ms:.2f} ms in all nodes, {self.runs} runs"

    def table(self, top: int = 30) -> Table:
        """The slowest ``top`` nodes, for a terminal."""
        table = Table(title=self.title(), title_justify="left")
        for name, side in (("node", "left"), ("operator", "left")):
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        for name in ("ms", "share", "MMACs", "MB", "MACs / byte", "GMACs/s"):
            table.add_column(name, justify="right")
        for node in self.nodes[:top]:
            table.add_row(
                node.name,
                node.op,
                f"{node.ms:.3f}",
                f"{node.share:.1%}",
                f"{node.macs / 1e6:.2f}" if node.macs else "",
                f"{node.bytes / 1e6:.2f}" if node.bytes else "",
                f"{node.intensity:.1f}" if node.macs and node.intensity else "",
                f"{node.gmacs_per_second:.1f}" if node.macs else "",
            )
        rest = self.nodes[top:]
        if rest:
            table.add_row(
                f"{len(rest)} more", "", f"{sum(n.ms for n in rest):.3f}", f"{sum(n.share for n in rest):.1%}"
            )
        return table

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``profile.json`` and ``profile.png`` into a folder."""
        write_json(Path(folder) / "profile.json", self.to_dict())
        draw(self, Path(folder) / "profile.png")


def profile_model(
    path: str | os.PathLike[str],
    engine: str = "onnxruntime",
    *,
    input_shape: Sequence[int] = (1, 3, 512, 512),
    threads: int = 0,
    warmup: int = 3,
    runs: int = 20,
    seed: int = 0,
) -> Profile:
    """Profile an ONNX file (or a folder with one).

    Args:
        path: the model.
        engine: one of `ENGINES`.
        input_shape: of one run.
        threads: CPU threads; 0 is the physical cores.
        warmup: runs before the profile.
        runs: runs of which times are medians.
        seed: of the random input.

    Raises:
        UserError: the engine does not tell node times, or the model does not take this shape.
    """
    if engine not in ENGINES:
        raise UserError(f"{engine} does not tell the time of single nodes.", f"Choose one of: {', '.join(ENGINES)}.")
    options = RuntimeOptions(threads=threads, profile=True)
    file = find_model(path, "onnxruntime")
    costs = onnx_costs(file, input_shape)
    runtime = load(file, engine, options)
    image = np.random.default_rng(seed).standard_normal(input_shape).astype(np.float32)
    for _ in range(warmup + runs):
        runtime.run({runtime.inputs[0].name: image})
    finder = _Finder(costs)
    rows: dict[str, NodeProfile] = {}
    times = runtime.node_times()
    total = sum(item.ms for item in times) or 1.0
    for item in times:
        cost = finder.find([item.name, *item.origin], item.op)
        name = cost.name if cost else item.name
        share = item.ms / total
        row = NodeProfile(name, item.op, item.ms, share)
        if cost:
            row = replace(row, macs=cost.macs or 0, bytes=cost.bytes)
        if name in rows:  # an engine may split one node of the file into several
            old = rows[name]
            row = replace(old, ms=old.ms + item.ms, share=old.share + share)
        rows[name] = row
    ordered = sorted(rows.values(), key=lambda row: -row.ms)
    info = runtime.describe()
    return Profile(tuple(ordered), f"{engine} {info.version}", tuple(input_shape), options.thread_count, runs)


class _Finder:
    """Finds the node of the file that an engine's node stands for."""

    def __init__(self, costs: Sequence[OnnxNodeCost]) -> None:
        self._by_name = {cost.name: cost for cost in costs}
        self._by_output = {name: cost for cost in costs for name in cost.outputs}

    def find(self, names: Sequence[str], op: str) -> OnnxNodeCost | None:
        """Find by the engine's names of it; of a fused group, the convolution or matrix product."""
        found = []
        for name in names:
            plain = _ENGINE_MARKS.sub("", name)
            cost = self._by_name.get(plain) or self._by_output.get(plain)
            if cost is not None and cost not in found:
                found.append(cost)
        heavy = [cost for cost in found if cost.op in _HEAVY]
        if not heavy and _is_heavy(op):
            heavy = [cost for cost in map(self._above, found) if cost is not None]
        return next(iter(heavy or found), None)

    def _above(self, cost: OnnxNodeCost) -> OnnxNodeCost | None:
        """The convolution or matrix product that a fused activation, sum or quantizer follows."""
        waiting, steps = [cost], 0
        while waiting and steps < 12:
            cost = waiting.pop(0)
            steps += 1
            if cost.op in _HEAVY:
                return cost
            waiting += [self._by_output[name] for name in cost.inputs if name in self._by_output]
        return None


def _is_heavy(op: str) -> bool:
    return any(mark in op for mark in ("Conv", "MatMul", "Gemm", "FullyConnected", "Deconvolution"))


def draw(profile: Profile, path: Path, top: int = 25) -> None:
    """Draw the slowest nodes as bars, coloured by arithmetic intensity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colormaps, pyplot
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    nodes = profile.nodes[:top]
    norm = LogNorm(0.1, 200, clip=True)
    colours = [
        colormaps["viridis"](norm(node.intensity)) if node.macs and node.intensity else "#bbbbbb" for node in nodes
    ]
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.28 * len(nodes)), layout="constrained")
    axes.barh(range(len(nodes)), [node.ms for node in nodes], color=colours)
    for place, node in enumerate(nodes):
        text = f" {node.share:.1%}" + (f"  {node.gmacs_per_second:.0f} GMACs/s" if node.macs else "")
        axes.text(node.ms, place, text, va="center", fontsize=7)
    axes.set_yticks(range(len(nodes)), [f"{node.name} ({node.op})" for node in nodes], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("milliseconds a run")
    axes.set_title(profile.title(), fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label="multiply-accumulates a byte (grey: none)")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)

"""What a GraphLayer costs over the layer it was captured from in time and memory, and how long capture takes.

Memory is the peak of what Paddle's CPU allocator handed out, above what was held before the run.

Interleaved in one run, median of the repeats: ``python benchmarks/graph_overhead.py --output overhead.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.base import core
from paddle.static import InputSpec
from rich.console import Console
from rich.table import Table

from paddleseg_slim.files import write_json
from paddleseg_slim.graph import capture, flatten
from paddleseg_slim.models.zoo import build

SPEC = [InputSpec([None, 3, None, None], "float32", "x")]


def forward(model: Any, x: Any) -> None:
    with paddle.no_grad():
        model(x)


def step(model: Any, x: Any) -> None:
    outputs = [leaf for leaf in flatten(model(x)) if isinstance(leaf, paddle.Tensor)]
    sum(leaf.mean() for leaf in outputs).backward()
    model.clear_gradients()


def ratio(run: Callable[[Any, Any], None], models: tuple[Any, Any], x: Any, repeats: int) -> tuple[float, float, float]:
    """Median milliseconds of each, and the median of the ratios of neighbouring runs."""
    for model in models:
        run(model, x)
        run(model, x)
    times: list[list[float]] = [[], []]
    for turn in range(repeats):
        pair = [0.0, 0.0]
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            start = time.perf_counter()
            run(models[which], x)
            pair[which] = time.perf_counter() - start
        times[0].append(pair[0])
        times[1].append(pair[1])
    ratios = [graph / eager for eager, graph in zip(*times)]
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1]), statistics.median(ratios)


def peak_mib(run: Callable[[Any, Any], None], model: Any, x: Any) -> float:
    """Peak of the allocated memory of one run, MiB."""
    run(model, x)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    held = core.host_memory_stat_current_value("Allocated", 0)
    run(model, x)
    return (core.host_memory_stat_peak_value("Allocated", 0) - held) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bisenetv2", "fcn_hrnet_w18"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args()
    table = Table("model", "size", "what", "eager ms", "graph ms", "graph / eager", "eager MiB", "graph MiB")
    rows = []
    for name in options.models:
        net = build(name, 19)
        start = time.perf_counter()
        unverified = capture(net, SPEC, verify=False)
        seconds = time.perf_counter() - start
        nodes = [len(graph.nodes) for graph in unverified.graphs]
        rows.append({"model": name, "capture_seconds_a_mode": seconds / 2, "nodes": nodes})
        table.add_row(name, "", "capture, a mode", "", f"{500 * seconds:.0f}", f"{max(nodes)} nodes")
        for size in options.sizes:
            x = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, size, size)).astype("float32"))
            for what, run, training in (("forward", forward, False), ("forward + backward", step, True)):
                for model in (net, unverified):
                    model.train() if training else model.eval()
                x = x if not training else paddle.concat([x, x * 0.5])  # batch statistics need two samples
                eager, graph, quotient = ratio(run, (net, unverified), x, options.repeats)
                memory = [peak_mib(run, model, x) for model in (net, unverified)]
                rows.append({"model": name, "size": size, "what": what, "eager_ms": eager, "graph_ms": graph,
                             "ratio": quotient, "eager_mib": memory[0], "graph_mib": memory[1]})  # fmt: skip
                numbers = [f"{eager:.1f}", f"{graph:.1f}", f"{quotient:.3f}", *(f"{peak:.1f}" for peak in memory)]
                table.add_row(name, str(size), what, *numbers)
    Console().print(table)
    machine = {"machine": platform.processor() or platform.machine(), "paddle": paddle.__version__}
    if options.output:
        write_json(options.output, {**machine, "repeats": options.repeats, "rows": rows})
    else:
        print(json.dumps(machine))


if __name__ == "__main__":
    main()

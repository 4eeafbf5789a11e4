"""The compression record of a model in words, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune.plan import Goal

SHOWN = 8
"""Most entries that are told; of a longer record the last ones."""

Entry = Mapping[str, Any]


def lines(layer: GraphLayer) -> list[str]:
    """What was done to a model, a line a step, in order."""
    first = max(len(layer.record) - SHOWN, 0)
    told = [_line(layer, entry) for entry in layer.record[first:]]
    return [f"{first} earlier steps", *told] if first else told


def _line(layer: GraphLayer, entry: Entry) -> str:
    tell = _TELL.get(str(entry.get("step")))
    return tell(layer, entry) if tell else _plain(entry)


def _plain(entry: Entry) -> str:
    """What a program of its own noted: its numbers and texts."""
    facts = [f"{key}: {value}" for key, value in entry.items() if isinstance(value, (str, int, float))]
    return ", ".join(facts) or "a step without a name"


def _pruned(layer: GraphLayer, entry: Entry) -> str:
    weights = [name for name, tensor in layer.tensors() if tensor.ndim == 4]
    smaller = sum(name in entry["kept"] for name in weights)
    text = f"pruned{_goal(entry.get('goal', {}))}: {smaller} of {len(weights)} convolutions are smaller"
    refitted = entry.get("reconstruction", {}).get("layers", 0)
    return text + (f", {refitted} layers were refitted" if refitted else "")


def _goal(goal: Entry) -> str:
    asked = str(
        Goal(**{key: goal[key] for key in ("flops_removed", "params", "latency_ms", "max_drop") if key in goal})
    )
    return f" (asked: {asked})" if asked else ""


def _quantized(_: GraphLayer, entry: Entry) -> str:
    how = {"qat": "with training", "ptq": "without training"}.get(entry["method"], entry["method"])
    return (
        f"quantized {how} for the target {entry['target']}: {len(entry['layers'])} layers with "
        f"{100 * entry['macs_share']:.1f} % of the MACs (weights {entry['weight_bits']} bits, activations "
        f"{entry['activation_bits']}), {len(entry['left_float'])} stay float"
    )


def _sparse(_: GraphLayer, entry: Entry) -> str:
    return f"made sparse by {entry['method']}: {100 * entry['zeros']:.1f} % of the weights are zero"


def _distilled(_: GraphLayer, entry: Entry) -> str:
    return f"distilled: {entry['iters']} steps with {', '.join(entry['losses'])}, teacher {entry['teacher']}"


_TELL: dict[str, Callable[[GraphLayer, Entry], str]] = {
    "prune": _pruned,
    "quantize": _quantized,
    "sparsify": _sparse,
    "distill": _distilled,
}

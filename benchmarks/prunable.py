"""What of each model can be pruned: writes the table of `docs/prunable.md`.

python benchmarks/prunable.py                      all models, into docs/prunable.md
python benchmarks/prunable.py fast_scnn unet       these only, printed
python benchmarks/prunable.py --json rows.json     rows that the file holds are not computed again
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from paddleseg_slim.files import atomic_file, write_json
from paddleseg_slim.prune.budget import width_options
from paddleseg_slim.prune.channels import ChannelGroups, find_groups

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "prunable.md"
SIZE = 128

HEAD = f"""# What can be pruned

Written by `python benchmarks/prunable.py`; `tests/prune/test_prunable.py` holds it to the code. Sizes and costs at
{SIZE}x{SIZE}, one image.

* **prunable**: share of the convolutions' multiply-accumulates in convolutions whose output channels can be removed.
* **groups**: channels that live or die together; **seconds** of one core to find them in a captured graph.
* **least**: multiply-accumulates left with every group at its narrowest, any width / multiples of 8 allowed.
* **what stays**: in how many convolutions channels stay, and why. The last one of a network makes its classes.

| model | convolutions | GMACs | prunable | groups | seconds | least | what stays |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One model of the table."""

    model: str
    convolutions: int
    gmacs: float
    share: float
    groups: int
    seconds: float
    least: float
    least_aligned: float
    reasons: dict[str, int]

    def line(self) -> str:
        """The row as Markdown."""
        why = "; ".join(f"{count}: {reason}" for reason, count in sorted(self.reasons.items(), key=lambda r: -r[1]))
        return (
            f"| {self.model} | {self.convolutions} | {self.gmacs:.2f} | {100 * self.share:.1f} % | {self.groups} "
            f"| {self.seconds:.2f} | {100 * self.least:.1f} % / {100 * self.least_aligned:.1f} % | {why} |"
        )


def smallest(groups: ChannelGroups, align: int) -> float:
    """Part of the multiply-accumulates left with every group at its narrowest."""
    widths = [
        width_options(group.width, align=group.step(align), fixed=group.width <= group.step(align))[0]
        for group in groups.groups
    ]
    return groups.macs(np.array(widths, dtype=np.int64)) / groups.macs(groups.widths)


def reason_of(text: str) -> str:
    """A reason without the name of the node it is about."""
    first = re.sub(r"^\S+ (?=\()|^\S+: (?=no channel)", "", text.split(";")[0])
    return re.sub(r"^\(\w+\):? ?", "", first)


def row_of(name: str, model: Any) -> Row:
    """Find the groups of a captured model and describe them."""
    began = time.process_time()
    groups = find_groups(model, SIZE)
    seconds = time.process_time() - began
    layers = [layer for layer in groups.layers() if "conv" in layer.op]
    total = sum(layer.macs for layer in layers)
    reasons: dict[str, int] = {}
    for layer in layers:
        if layer.prunable < layer.channels:
            reason = reason_of(layer.reason)
            reasons[reason] = reasons.get(reason, 0) + 1
    return Row(
        name, len(layers), total / 1e9, groups.prunable_share(),
        len(groups.groups), seconds, smallest(groups, 1), smallest(groups, 8), reasons,
    )  # fmt: skip


def main() -> None:
    sys.path.insert(1, str(ROOT / "tests"))
    from prune.test_models import MODELS, model_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="default: all")
    parser.add_argument("--json", type=Path, help="rows so far: read, and written after every model")
    args = parser.parse_args()
    known: dict[str, Any] = {}
    if args.json and args.json.is_file():
        known = json.loads(args.json.read_text(encoding="utf-8"))
    rows = []
    for name in args.models or MODELS:
        if name not in known:
            known[name] = asdict(row_of(name, model_of(name)))
            if args.json:
                write_json(args.json, known)
        rows.append(Row(**known[name]))
        print(rows[-1].line(), flush=True)
    if not args.models:
        with atomic_file(DOCUMENT) as temporary:
            Path(temporary).write_text(HEAD + "".join(f"{row.line()}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()

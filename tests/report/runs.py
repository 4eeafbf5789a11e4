"""A made-up run of four stages on real fashion scenes, as the commands would leave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddleseg_slim.data.fashion.scene import make_scene
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.curves_picture import caption, draw
from paddleseg_slim.report import Accuracy, Latency, Stage, write_stage
from paddleseg_slim.report.samples import save_sample

CLASSES = ("background", "top", "trousers", "dress", "footwear", "bag")
SHAPE = (1, 3, 128, 128)
WIDTHS = {f"backbone.stem.convolution_with_a_long_name_{number}._conv": (32, 32 - 8 * number) for number in (2, 1, 0)}


def latency(stage: str, engine: str, ms: float, base_ms: float, width: float = 0.05, **more) -> Latency:
    ratio = base_ms / ms
    compared = {} if stage == "dense" else {"speedup": ratio, "ci_low": ratio - width, "ci_high": ratio + width}
    base = {} if stage == "dense" else {"base": "dense"}
    return Latency(engine, "cpu", 2, SHAPE, ms, ms * 1.12, stage=stage, **compared, **base, **more)


def accuracy(score: float) -> Accuracy:
    per_class = {name: score + 0.04 * (index - 2.5) for index, name in enumerate(CLASSES)}
    return Accuracy("mIoU", {"mIoU": score, "Acc": score + 0.2, "Kappa": score + 0.1}, per_class, 500)


def make_run(root: Path) -> Path:
    """Write the run into ``root`` and return it."""
    environment = {"cpu": "Some CPU @ 2.0 GHz", "cpu_flags": ["avx2"], "paddle": "3.3.1", "python": "3.11.7"}
    common = {"environment": environment, "input_shape": SHAPE}
    rng = np.random.default_rng(0)
    curve = [[step, 1.6 * np.exp(-step / 900) + 0.2 + rng.normal(0, 0.02)] for step in range(50, 3001, 50)]
    scores = [[step, 0.68 - 0.6 * np.exp(-step / 800)] for step in range(300, 3001, 300)]
    write_stage(
        root / "train",
        Stage("dense", "train", "python train.py --config configs/fashion/fastscnn_fashion5_128x128.yml --do_eval",
              accuracy(0.6812), 1_134_000, 61_400_000, {"model.onnx": 4_560_000, "model.pdparams": 4_590_000},
              seconds=2710, curves={"loss": curve, "mIoU": scores}, **common),
    )  # fmt: skip
    curves = Curves(
        "refit", "divergence", 1.0, 16, {name: GroupCurve(32, [24, 8], [0.001, 0.3], []) for name in WIDTHS}
    )
    draw(curves, root / "prune" / "sensitivities.png", WIDTHS)
    removed = {
        "widths": WIDTHS,
        "untouched": {"backbone.stem.convolution_with_a_long_name_0._conv": "others save more for their loss"},
        "pinned": {"head.cls": "they are the network's output"},
        "pictures": {"sensitivities.png": caption(curves)},
    }
    write_stage(
        root / "prune",
        Stage("pruned", "prune", "python slim/prune.py --config ... --pruning_ratio 0.3", accuracy(0.6755), 702_000,
              42_300_000, {"model.onnx": 2_840_000}, base="dense", seconds=911, samples=samples(root / "prune", 2),
              curves={"loss": [[s, v * 0.5] for s, v in curve[:20]]}, **removed, **common),
    )  # fmt: skip
    write_stage(
        root / "quant",
        Stage("int8", "quant", "python slim/post_quant.py --config ...", accuracy(0.6731), 702_000, 42_300_000,
              {"model.onnx": 791_000}, base="pruned", seconds=75.2, samples=samples(root / "quant", 3), **common),
    )  # fmt: skip
    rows = (
        latency("dense", "onnxruntime", 5.61, 5.61),
        latency("pruned", "onnxruntime", 4.02, 5.61),
        latency("int8", "onnxruntime", 2.95, 5.61, precision="int8", note="20/21 convolutions in int8"),
        latency("dense", "openvino", 4.4, 4.4),
        latency("pruned", "openvino", 3.5, 4.4),
        latency("int8", "openvino", 4.35, 4.4, precision="int8"),
    )
    write_stage(
        root / "bench", Stage("bench", "bench", "paddleseg-slim bench ...", latency=rows, base="dense", **common)
    )
    return root


def samples(folder: Path, count: int) -> tuple[str, ...]:
    names = []
    for index in range(count):
        scene = make_scene(0, "test", index, (128, 128))
        label = scene.label.astype(np.uint8) % len(CLASSES)
        before = label.copy()
        before[40:60, 30:44] = 2
        after = np.roll(before, 1, axis=1)
        names.append(f"samples/{index}.npz")
        save_sample(folder / names[-1], scene.image, after, before, label)
    return tuple(names)

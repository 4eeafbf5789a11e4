"""Where `fast` orders the groups otherwise than `exact`, and whether that matters to what is pruned.

What a small part of a group's channels does to the mIoU of some chosen images has two parts: one of second order, which
the divergence of the outputs tells, and one of first order, which is the gradient of the mIoU of these very images. For
a trained model the second is chance: it is another one for other images. Here both are added up, and the order of the
groups is compared with that of `exact` at each ratio; then models are cut by all of them and evaluated on other images.

The mIoU is linearised in the confusion matrix, and the confusion matrix is made differentiable by a softmax, whose
temperature is as wide as the outputs of the point move (by its divergence). The divergence is scaled to the loss by
`exact` itself: this shows what can be explained, it is no mode of analysis.

    python benchmarks/sensitivity_agreement.py --config X.yml --model_path Y.safetensors --test 1500
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import paddle
import paddle.nn.functional as F
from prune_sensitivity import correlation, data_of, model_of

from paddleseg_slim import config as configs
from paddleseg_slim.cli.evaluation import fast_forward
from paddleseg_slim.cli.subset import calibration_images, evenly_spread
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.files import write_json
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.divergence import DivergenceCounts
from paddleseg_slim.prune.plan import Goal, prune_to
from paddleseg_slim.prune.ranking import scores
from paddleseg_slim.prune.reconstruct import reconstruct
from paddleseg_slim.prune.sensitivity import EXACT_RATIOS, FAST_IMAGES, FAST_RATIOS, TOGETHER, analyse
from paddleseg_slim.prune.taylor import gate_gradients
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.evaluate import evaluate, model_forward

TEMPERATURES = (0.08, 0.15, 0.3, 0.6, 1.0, 2.0)
IGNORED = 255


def price_of_pixels(confusion: np.ndarray) -> np.ndarray:
    """Derivative of the mIoU by the counts of the confusion matrix, ``[label, prediction]``; labels do not change."""
    hit = np.diag(confusion).astype(float)
    union = np.maximum(confusion.sum(0) + confusion.sum(1) - hit, 1.0)
    price = np.tile(-hit / union**2, (len(hit), 1))
    np.fill_diagonal(price, 1 / union)
    return np.asarray(price / len(hit))


def first_order(groups: ChannelGroups, task: Any, samples: Any, price: np.ndarray, temperature: float) -> Any:
    """Group -> derivative of the mIoU of ``samples`` by a gate on every channel, ``[width]``."""
    labels = [np.asarray(samples[i]["label"]).reshape(samples[i]["img"].shape[1:]) for i in range(len(samples))]

    def loss(logits: Any, start: int) -> Any:
        label = np.stack(labels[start : start + len(logits)])
        known = label != IGNORED
        worth = price[np.where(known, label, 0)] * known[..., None]
        soft = F.softmax(logits / temperature, axis=1)
        return (soft * paddle.to_tensor(np.moveaxis(worth, -1, 1).astype("float32"))).sum()

    images = (samples[i]["img"][None] for i in range(len(samples)))
    found = gate_gradients(groups, images, task.logits, loss=loss)
    return {name: array.sum(axis=0) for name, array in found.items()}


def with_losses(curves: Curves, loss: Callable[[str, int], float]) -> Curves:
    """The curves with other losses at the same points."""
    table = {
        name: GroupCurve(c.width, c.kept, [float(loss(name, kept)) for kept in c.kept], c.order)
        for name, c in curves.groups.items()
    }
    return replace(curves, groups=table)


def point_losses(curves: Curves) -> dict[tuple[str, int], float]:
    """(group, channels kept) -> loss."""
    return {(name, k): loss for name, c in curves.groups.items() for k, loss in zip(c.kept, c.losses)}


def linear(exact: Curves, slopes: Mapping[float, Any], divergence: Mapping[tuple[str, int], float]) -> Any:
    """(group, channels kept) -> relative loss of first order, at a temperature as wide as the outputs move."""
    found = {}
    for (name, kept), moved in divergence.items():
        gone = exact.groups[name].order[: exact.groups[name].width - kept]
        told = [slopes[t][name][gone].sum() / exact.baseline for t in TEMPERATURES]
        width = max(float(np.sqrt(2 * max(moved, 0.0))), TEMPERATURES[0])
        found[name, kept] = float(np.interp(np.log(width), np.log(TEMPERATURES), told))
    return found


def scale_of(exact: Mapping[Any, float], line: Mapping[Any, float], divergence: Mapping[Any, float]) -> float:
    """Relative loss of a nat of divergence, by the lower two thirds of the points, each as much as it is worth."""
    points = sorted(divergence, key=lambda point: divergence[point])[: 2 * len(divergence) // 3]
    x, y = (np.array([f(point) for point in points]) for f in (divergence.get, lambda p: exact[p] - line[p]))
    weight = 1 / (x + 0.2 * np.median(x)) ** 2
    return float((weight * x * y).sum() / (weight * x * x).sum())


def raw_correlation(exact: Curves, other: Curves) -> list[float]:
    """`correlation`, but of the losses as they are: a negative one is no noise here."""
    from scipy.stats import spearmanr

    found = []
    for ratio in EXACT_RATIOS:
        at = {name: max(1, round(c.width * (1 - ratio))) for name, c in exact.groups.items()}
        both = [(point_losses(exact).get(p), point_losses(other).get(p)) for p in at.items()]
        found.append(float(spearmanr(*zip(*[pair for pair in both if None not in pair])).statistic))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--images", type=int, default=200, help="of `exact`")
    parser.add_argument("--test", type=int, default=1500, help="test images that the pruned models are evaluated on")
    parser.add_argument("--json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    task = build_task(configs.load_config(args.config, [f"test_dataset.num_samples={args.test}"]))
    samples = evenly_spread(task.val_dataset(), args.images)
    few = evenly_spread(task.val_dataset(), FAST_IMAGES)
    model = model_of(args, task)
    groups = find_groups(model, samples[0]["img"].shape[-2:], task.logits)
    importance, engine = scores(groups, "l1_norm"), executor("onnxruntime", 1)

    def analysed(chosen: Any, mode: str, ratios: tuple[float, ...], accumulator: Any = task.accumulator) -> Curves:
        data = replace(data_of(task, chosen, TOGETHER), accumulator=accumulator)
        return analyse(groups, importance, data, engine, mode=mode, ratios=ratios)

    exact = analysed(samples, "exact", EXACT_RATIOS)
    fast = analysed(few, "fast", FAST_RATIOS)
    moved = point_losses(analysed(few, "exact", EXACT_RATIOS, DivergenceCounts))
    whole = task.accumulator()
    forward = model_forward(model)
    for i in range(len(samples)):
        whole.update(
            task.logits(forward(samples[i]["img"][None])), {k: v[None] for k, v in samples[i].items() if k == "label"}
        )
    price = price_of_pixels(whole.counts)
    line = linear(exact, {t: first_order(groups, task, samples, price, t) for t in TEMPERATURES}, moved)
    scale = scale_of(point_losses(exact), line, moved)
    curves = {
        "exact": exact,
        "fast": fast,
        "divergence": with_losses(exact, lambda name, kept: scale * moved[name, kept]),
        "divergence and first order": with_losses(exact, lambda n, kept: scale * moved[n, kept] + line[n, kept]),
    }
    result: dict[str, Any] = {"scale": scale, "spearman": {"fast": list(correlation(exact, fast).values())}}
    for name in ("divergence", "divergence and first order"):
        result["spearman"][name] = raw_correlation(exact, curves[name])
    chosen = calibration_images(task, 64, "train", 42)
    refit = [chosen[i]["img"][None] for i in range(len(chosen))]
    for ratio in (0.3, 0.5):
        for name, own in curves.items():
            pruned = prune_to(groups, own, importance, Goal(flops_removed=ratio)).model
            cut = evaluate(fast_forward(pruned, task), task, task.test_dataset()).score
            reconstruct(pruned, model, refit, pruned.record[-1]["kept"])
            refitted = evaluate(fast_forward(pruned, task), task, task.test_dataset()).score
            result[f"-{100 * ratio:.0f} % by {name}"] = {"as cut": cut, "refitted": refitted}
    for key, value in result.items():
        print(f"{key}: {value}", flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()

"""Seconds for a point (group, ratio) of the sensitivity analysis: PaddleSlim 2.6.0 against this package.

Same weights, same images (in memory), same convolutions, ratios 0.1 to 0.9, all CPU threads on both sides. PaddleSlim
needs an old Paddle, so it runs in an environment of its own, by the second of three commands:

    python3 -m venv peer && peer/bin/pip install paddlepaddle==2.6.2 "numpy<2" opencv-python-headless==4.9.0.80 \\
        matplotlib pyyaml pyzmq tqdm six requests filelock prettytable scikit-learn setuptools
    peer/bin/pip install --no-deps paddleslim==2.6.0 paddleseg==2.8.0

    python benchmarks/peers/paddleslim_sensitivity.py prepare DIR --config X.yml [--model_path Y] --images 16 --layers 3
    OMP_NUM_THREADS=2 peer/bin/python benchmarks/peers/paddleslim_sensitivity.py peer DIR
    python benchmarks/peers/paddleslim_sensitivity.py ours DIR
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_MODELS = {"FastSCNN": {"enable_auxiliary_loss": True}, "UNet": {}}
"""Models that both have, with what they are built with."""


def prepare(args: argparse.Namespace) -> None:
    """Write weights, images, labels and the names of the layers to measure."""
    import paddle

    task, model = _ours(args.config)
    if args.model_path:
        from paddleseg_slim.train.weights import load_weights

        load_weights(model, args.model_path)
    data = task.val_dataset()
    samples = [data[i] for i in np.linspace(0, len(data) - 1, args.images).astype(int)]
    args.folder.mkdir(parents=True, exist_ok=True)
    np.savez(args.folder / "weights.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    np.savez(
        args.folder / "images.npz",
        img=np.stack([s["img"] for s in samples]),
        label=np.stack([s["label"] for s in samples]),
    )
    layers = {n: m for n, m in model.named_sublayers() if isinstance(m, paddle.nn.Conv2D) and m._groups == 1}
    inner = [name for name in layers if "auxlayer" not in name][:-1]  # the last makes the classes
    chosen = [inner[i] for i in np.linspace(0, len(inner) - 1, args.layers + 2).astype(int)[1:-1]]
    settings = {"config": str(args.config), "type": type(model).__name__, "classes": task.num_classes()}
    text = json.dumps({**settings, "layers": chosen, "batch_size": args.batch_size})
    (args.folder / "settings.json").write_text(text, encoding="utf-8")
    print("layers:", *chosen)


def _ours(config: str | Path) -> tuple[Any, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from paddleseg_slim import config as configs
    from paddleseg_slim.tasks import build_task

    task: Any = build_task(configs.load_config(str(config)))
    return task, task.build_model()


def _data(folder: Path, settings: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    with np.load(folder / "images.npz") as arrays:
        img, label, size = arrays["img"], arrays["label"], settings["batch_size"]
        return [{"img": img[i : i + size], "label": label[i : i + size]} for i in range(0, len(img), size)]


def peer(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Run PaddleSlim; its own losses and the seconds of a point are written."""
    import sklearn.metrics  # noqa: F401  before Paddle 2.6.2, whose zlib breaks the loading of it
    import paddle  # isort: skip
    import paddleseg.models
    from paddleslim.dygraph import L1NormFilterPruner

    model = getattr(paddleseg.models, settings["type"])(settings["classes"], **_MODELS[settings["type"]])
    with np.load(args.folder / "weights.npz") as arrays:
        model.set_state_dict({name: paddle.to_tensor(arrays[name]) for name in arrays})
    model.eval()
    batches, classes, spent = _data(args.folder, settings), settings["classes"], []

    def evaluate() -> float:
        began, counts = time.perf_counter(), np.zeros(classes * classes, np.int64)
        for batch in batches:
            with paddle.no_grad():
                predicted = model(paddle.to_tensor(batch["img"]))[0].argmax(1).numpy()
            inside = batch["label"] < classes
            counts += np.bincount((batch["label"] * classes + predicted)[inside], minlength=classes * classes)
        spent.append(time.perf_counter() - began)
        table = counts.reshape(classes, classes)
        hits = np.diag(table)
        return float(np.nanmean(hits / np.maximum(table.sum(0) + table.sum(1) - hits, 1)))

    layers = dict(model.named_sublayers())
    wanted = [layers[name].weight.name for name in settings["layers"]]
    evaluate()
    size = batches[0]["img"].shape
    pruner = L1NormFilterPruner(model, [1, *size[1:]])
    spent.clear()
    began = time.perf_counter()
    losses = pruner.sensitive(eval_func=evaluate, sen_file=str(args.folder / "sen.pickle"), target_vars=wanted)
    points = sum(len(curve) for curve in losses.values())
    seconds = time.perf_counter() - began - spent[0]  # without the untouched model
    pairs = [(n, losses[w]) for n, w in zip(settings["layers"], wanted) if w in losses]
    named = {name: {str(ratio): float(x) for ratio, x in curve.items()} for name, curve in pairs}
    result = {"seconds_a_point": seconds / points, "points": points, "losses": named, "paddle": paddle.__version__}
    (args.folder / "peer.json").write_text(json.dumps(result), encoding="utf-8")
    print(
        f"PaddleSlim: {points} points, {seconds / points:.3f} s each; {sum(spent[1:]):.1f} of {seconds:.1f} s evaluate"
    )


def ours(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Run `exact` on the groups of the same layers, and `fast`; print the comparison."""
    task, model = _ours(settings["config"])
    import paddle

    from paddleseg_slim.deploy.executor import executor
    from paddleseg_slim.graph import capture
    from paddleseg_slim.prune.channels import find_groups
    from paddleseg_slim.prune.ranking import scores
    from paddleseg_slim.prune.sensitivity import EXACT_RATIOS, FAST_RATIOS, analyse
    from paddleseg_slim.prune.tails import find_tails

    with np.load(args.folder / "weights.npz") as arrays:
        model.set_state_dict({name: paddle.to_tensor(arrays[name]) for name in arrays})
    batches = _data(args.folder, settings)
    groups = find_groups(capture(model, task.input_spec()), batches[0]["img"].shape[-2:], task.logits)
    made = {g.name: {m.parameter.removesuffix(".weight") for m in g.members if m.writes} for g in groups.groups}
    names = [name for name, layers in made.items() if layers & set(settings["layers"])]
    importance = {name: score for name, score in scores(groups, "l1_norm").items() if name in names}

    images = sum(len(batch["img"]) for batch in batches)
    theirs = json.loads((args.folder / "peer.json").read_text(encoding="utf-8"))
    rows = {"PaddleSlim": (theirs["seconds_a_point"], float(images))}
    whole = groups.macs(groups.widths)
    tails = find_tails(groups, names, task.logits)
    for mode, source, ratios, taken in (
        ("exact", batches, EXACT_RATIOS, images),
        ("fast", _first(batches, args.fast_images), FAST_RATIOS, args.fast_images),
    ):
        share = float(np.mean([tail.macs + tail.leaving_macs / len(ratios) for tail in tails])) / whole
        data = _data_of(source, task)
        began = time.perf_counter()
        analyse(groups, importance, data, executor("onnxruntime", 1), mode=mode, ratios=ratios, workers=args.threads)
        seconds = (time.perf_counter() - began) / (len(names) * len(ratios))
        rows[mode] = (seconds, taken * share)
    print(f"{settings['type']}: {len(names)} groups of {len(groups.groups)}, {images} images")
    for name, (seconds, runs) in rows.items():
        ratio = rows["PaddleSlim"][0] / seconds
        print(f"| {name} | {1e3 * seconds:.1f} ms a point | {runs:.1f} runs of an image a point | {ratio:.1f}x |")


def _first(batches: list[dict[str, np.ndarray]], images: int) -> list[dict[str, np.ndarray]]:
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return [{key: array[:images] for key, array in whole.items()}]


def _data_of(batches: list[dict[str, np.ndarray]], task: Any) -> Any:
    """The same images in the batches that the analysis runs."""
    from paddleseg_slim.prune.sensitivity import TOGETHER, Data

    few = [
        {key: array[start : start + TOGETHER] for key, array in batch.items()}
        for batch in batches
        for start in range(0, len(batch["img"]), TOGETHER)
    ]
    return Data(lambda start: iter(few[start:]), len(few), task.accumulator, task.logits, TOGETHER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "peer", "ours"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config")
    parser.add_argument("--model_path")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--layers", type=int, default=3, help="convolutions to measure, spread over the model")
    parser.add_argument("--fast_images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.step == "prepare":
        prepare(args)
        return
    settings = json.loads((args.folder / "settings.json").read_text(encoding="utf-8"))
    {"peer": peer, "ours": ours}[args.step](args, settings)


if __name__ == "__main__":
    main()

"""What the quantization benchmarks share: trained models, their test images, scores an image, paired intervals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import paddle

from paddleseg_slim import config as configs
from paddleseg_slim.cli.setup import load_model
from paddleseg_slim.cli.subset import calibration_images
from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.deploy.runtimes import RuntimeOptions, load
from paddleseg_slim.graph import GraphLayer, capture
from paddleseg_slim.tasks import build_task
from paddleseg_slim.tasks.base import Task
from paddleseg_slim.train.evaluate import batches

RESAMPLES = 2000


@dataclass
class Reference:
    """A trained model with the data that it is judged by.

    Attributes:
        name: of the config file, with the weights' folder where that tells more.
        task: data and metric.
        model: as a graph, in eval mode.
        test: batches of the test split, images and labels.
        shape: of one image, batch first.
    """

    name: str
    task: Task
    model: GraphLayer
    test: list[dict[str, Any]]
    shape: tuple[int, ...]

    @classmethod
    def load(cls, config_path: str, weights: str | None, images: int | None = None) -> Reference:
        """Build the model of a config with trained weights (None: random ones) and read its test split.

        Args:
            config_path: of the YAML file.
            weights: as ``--model_path``.
            images: how many of the test split; None: all.
        """
        config = configs.load_config(config_path, [])
        task = build_task(config)
        paddle.seed(0)
        model = load_model(task, weights) if weights else task.build_model()
        data = task.test_dataset()
        shape = (1, *np.asarray(data[0]["img"]).shape)
        if not isinstance(model, GraphLayer):
            model = capture(model, task.input_spec(), fixed_size=(shape[2], shape[3]))
        model.eval()
        chosen = First(data, images if weights else 1)
        return cls(Path(config_path).stem, task, model, list(batches(chosen, 8, 1)), shape)

    def calibration(self, count: int, seed: int = 42) -> list[np.ndarray]:
        """Batches of 4 images of the training list, with the transforms of the evaluation."""
        chosen = calibration_images(self.task, count, "train", seed)
        return [batch["img"] for batch in batches(chosen, 4, 1)]

    def write(self, model: GraphLayer, path: Path, **options: Any) -> Path:
        """Write the logits of ``model`` as an ONNX file; ``options``: `profiles.Profile.file_options`."""
        model.eval()
        write_onnx(model, path, logits=self.task.logits, **options)
        return path

    def run(self, path: Path, engine: str = "onnxruntime", threads: int = 1) -> Outcome:
        """Run a file on the test split."""
        runtime = load(path, engine, RuntimeOptions(threads=threads))
        name = runtime.inputs[0].name
        outputs = [runtime.run({name: batch["img"]})[0] for batch in self.test]
        return Outcome(self.counts(outputs), outputs)

    def run_in_memory(self, model: GraphLayer, images: int) -> Outcome:
        """Run a model by Paddle's own kernels on the first images of the test split, whole batches of them."""
        model.eval()
        outputs: list[np.ndarray] = []
        with paddle.no_grad():
            while sum(len(output) for output in outputs) < images and len(outputs) < len(self.test):
                image = paddle.to_tensor(self.test[len(outputs)]["img"])
                outputs.append(np.asarray(self.task.logits(model(image)).numpy()))
        return Outcome(self.counts(outputs), outputs)

    def counts(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """What the metric counts, for each image alone: ``[images, ...]``."""
        rows = []
        for output, batch in zip(outputs, self.test):
            for index in range(len(output)):
                accumulator = self.task.accumulator()
                accumulator.update([output[index : index + 1]], _one(batch, index))
                rows.append(accumulator.counts)
        return np.stack(rows)

    def score(self, counts: np.ndarray) -> float:
        """The primary metric of counts that were added up, in points of 100."""
        accumulator = self.task.accumulator()
        accumulator.counts, accumulator.images = counts, 1
        return 100 * accumulator.result().score


@dataclass(frozen=True)
class Outcome:
    """Counts of the metric for each image, and the logits of each batch."""

    counts: np.ndarray
    outputs: list[np.ndarray]


class First:
    """The first samples of a dataset."""

    def __init__(self, dataset: Any, count: int | None) -> None:
        self.dataset = dataset
        self.count = len(dataset) if count is None else min(count, len(dataset))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def _one(batch: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {key: value[index : index + 1] for key, value in batch.items()}


@dataclass(frozen=True)
class Drop:
    """How much lower one model scores than another, in points of 100.

    Attributes:
        score: of the model.
        drop: of it against the other one.
        low, high: 95 % interval of the drop by paired bootstrap over the images.
    """

    score: float
    drop: float
    low: float
    high: float


def paired_drop(reference: Reference, base: Outcome, other: Outcome, seed: int = 0) -> Drop:
    """Compare two models on the same images; both are resampled together (Efron 1979)."""
    rng, total = np.random.default_rng(seed), len(base.counts)
    drops = []
    flat = [outcome.counts.reshape(total, -1) for outcome in (base, other)]
    shape = base.counts.shape[1:]
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, total, total), minlength=total)
        first, second = (reference.score((times @ counts).reshape(shape)) for counts in flat)
        drops.append(first - second)
    before, after = (reference.score(outcome.counts.sum(axis=0)) for outcome in (base, other))
    low, high = np.percentile(drops, [2.5, 97.5])
    return Drop(after, before - after, float(low), float(high))


def output_error(base: Outcome, other: Outcome) -> float:
    """Root of the mean squared difference of the logits, as a share of their standard deviation."""
    squares = sum(float(((a - b) ** 2).sum()) for a, b in zip(base.outputs, other.outputs))
    size = sum(a.size for a in base.outputs)
    everything = np.concatenate([a.reshape(-1)[::7] for a in base.outputs])
    return float(np.sqrt(squares / size) / max(float(everything.std()), 1e-12))


def agreement(base: Outcome, other: Outcome) -> float:
    """Share of the positions at which both choose the same class, on the images that both have seen."""
    same = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(base.outputs, other.outputs))
    return same / sum(a.argmax(1).size for a, _ in zip(base.outputs, other.outputs))

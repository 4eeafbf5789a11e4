"""Evaluation without gradients: the engine gives what Paddle gives, between the steps of a training too."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from quant_nets import images, small_model
from tiny import write_config

from paddleseg_slim import config as configs
from paddleseg_slim.cli import evaluation
from paddleseg_slim.cli.evaluation import WORTH, Forwards, SideBySide, difference
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, PaddleExecutor, flatten
from paddleseg_slim.quant.calibrate import Choice, calibrate
from paddleseg_slim.quant.ptq import QuantSettings, prepare
from paddleseg_slim.tasks import build_task
from paddleseg_slim.tasks.base import Task
from paddleseg_slim.train import loop, optim
from paddleseg_slim.train.evaluate import evaluate, model_forward


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return build_task(configs.load_config(write_config(tmp_path_factory.mktemp("task"))))


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32)).astype(np.float32)


def test_the_weights_of_the_moment_in_a_training(task: Task, tmp_path: Path) -> None:
    """A plain Layer that is trained: every evaluation equals Paddle's at that step, BatchNorm statistics included."""
    paddle.seed(0)
    model = task.build_model()
    forwards, seen = Forwards(task, "onnxruntime", 1), []

    def both(layer: paddle.nn.Layer) -> Any:
        ours, eager = forwards(layer)(pictures()), model_forward(layer)(pictures())
        seen.append((ours, eager))
        return forwards(layer)

    schedule = optim.build_schedule(task.config.lr_scheduler, 4)  # type: ignore[attr-defined]
    optimizer = optim.build_optimizer(task.config.optimizer, schedule, model)  # type: ignore[attr-defined]
    settings = loop.TrainSettings(iters=4, batch_size=2, save_dir=tmp_path, save_interval=2, num_workers=0)
    loop.train(model, task, optimizer, settings, forward_of=both)
    assert len(seen) == 2
    for ours, eager in seen:
        for one, other in zip(flatten(ours), flatten(eager)):
            np.testing.assert_allclose(one, other, atol=1e-4 * np.ptp(other))
    change = np.abs(flatten(seen[0][1])[0] - flatten(seen[1][1])[0]).max()
    assert change > 1e-2 * np.ptp(flatten(seen[0][1])[0])  # else equal weights would hide a stale engine


def fake_quantized() -> GraphLayer:
    layer, placement = prepare(small_model(), QuantSettings("cpu"), (1, 3, 32, 32))
    return calibrate(layer, placement, [images()], PaddleExecutor()).quantized(Choice())


def test_a_fake_quantized_graph_stays_what_it_is(task: Task) -> None:
    """ONNX Runtime would fuse quantizers into integer kernels, which round otherwise; here it must not."""
    layer = fake_quantized()
    layer.eval()
    ours, eager = Forwards(task, "onnxruntime", 1)(layer)(images(4, 7)), model_forward(layer)(images(4, 7))
    step = np.ptp(eager) / 255
    assert np.abs(ours - eager).mean() < 0.02 * step  # now and then a rounding falls the other way
    assert (ours.argmax(1) == eager.argmax(1)).mean() > 0.999
    float_layer = small_model()
    assert np.abs(model_forward(float_layer)(images(4, 7)) - eager).mean() > 0.1 * step  # it is not the float model


class Strange(paddle.nn.Layer):
    """Has an op without an ONNX function."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.nn.functional.gumbel_softmax(x)


class Branching(paddle.nn.Layer):
    """Cannot be captured: its Python ``if`` depends on the data."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * 2 if float(x.sum().numpy()) > 0 else x * 3


@pytest.mark.parametrize("model", [Strange(), Branching()], ids=["op", "capture"])
def test_what_the_engine_cannot_run_is_run_by_paddle(
    model: paddle.nn.Layer, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    forwards = Forwards(task, "auto", 1)
    with caplog.at_level(logging.INFO, "paddleseg_slim"):
        assert forwards(model)(pictures()).shape == (3, 3, 32, 32)
        forwards(model)
    assert caplog.text.count("Evaluating through Paddle, not onnxruntime") == 1
    with pytest.raises(UserError):
        Forwards(task, "onnxruntime", 1)(model)


class Counted(paddle.nn.Layer):
    """Whether it was run as Layer: capturing runs it on symbols and on images of two sizes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.batches.append(x.shape[0])
        return x * 2.0


@pytest.mark.parametrize(("count", "runs"), [(WORTH - 1, [7]), (WORTH, [1])])
def test_few_images_are_not_worth_an_engine(count: int, runs: list[int], task: Task) -> None:
    model = Counted()
    forward = Forwards(task, "auto", 1, count)(model)
    model.batches.clear()
    for _ in range(2):
        np.testing.assert_allclose(forward(pictures(7)), pictures(7) * 2)
    assert model.batches == (runs * 2 if count < WORTH else runs)  # the engine is compared once, on one image


@pytest.mark.parametrize(("cores", "batch", "pool"), [(2, 8, 1), (64, 8, 57), (64, 1, 64), (1, 8, 1)])
def test_all_threads_work(cores: int, batch: int, pool: int, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session has one pool for all its callers, who work themselves: together as many threads as asked for."""
    asked: list[int] = []
    monkeypatch.setattr(evaluation, "best_executor", lambda engine, threads: asked.append(threads))
    Forwards(task, "onnxruntime", cores, batch_size=batch)
    assert asked == [pool]


def test_difference() -> None:
    expected = {"logits": [np.array([[0.0, 10.0]], np.float32)], "count": 3}
    assert difference(expected, expected) == 0
    assert difference({"logits": [np.array([[0.0, 9.0]], np.float32)], "count": 3}, expected) == pytest.approx(0.05)
    assert difference({"logits": [np.array([[0.0, np.nan]], np.float32)], "count": 3}, expected) == np.inf
    assert difference({"logits": [np.zeros((1, 3), np.float32)], "count": 3}, expected) == np.inf
    nothing = {"logits": [np.array([[0.0, np.nan]], np.float32)]}
    assert difference(nothing, nothing) == 0  # Paddle's own NaN is not the engine's fault


class Watched:
    """A forward that notes how many calls run at the same time; the first image of all takes longest."""

    def __init__(self, classes: int) -> None:
        self.most = self.calls = self._running = 0
        self._classes, self._lock = classes, threading.Lock()

    def __call__(self, batch: np.ndarray) -> Any:
        with self._lock:
            self.calls += 1
            self._running += 1
            self.most = max(self.most, self._running)
            wait = 0.2 if self.calls == 1 else 0.02
        time.sleep(wait)
        with self._lock:
            self._running -= 1
        scores = np.stack([batch[:, 0] * (3 * number % 7 - 3) for number in range(self._classes)], axis=1)
        return [np.ascontiguousarray(scores)]


def test_images_side_by_side_count_as_one_after_the_other(task: Task) -> None:
    classes = len(task.class_names())
    alone, engine, other = Watched(classes), Watched(classes), Watched(classes)
    expected = evaluate(alone, task, batch_size=4)
    together = evaluate(SideBySide(engine, 2, lambda _: engine), task, batch_size=4)
    assert together == expected
    assert (alone.most, engine.most) == (1, 2)
    assert engine.calls > alone.calls  # parts of a batch, so that memory is that of one batch
    single = Watched(classes)
    evaluate(SideBySide(single, 2, lambda _: single), task, batch_size=1)
    assert single.most == 1  # one image at a time was asked for
    assert evaluate(SideBySide(engine, 2, lambda _: other), task, batch_size=4) == expected
    assert other.most == 1  # Paddle's layers switch modes: one thread at a time

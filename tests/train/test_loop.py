"""The loop as a library: hooks, workers, windows of the log, graphs, evaluation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from tiny import CLASSIFICATION, SEGMENTATION

from paddleseg_slim.config import ComponentSpec, config_from_dict
from paddleseg_slim.errors import TrainingDiverged, UserError
from paddleseg_slim.tasks import build_task
from paddleseg_slim.tasks.base import Batch, Task
from paddleseg_slim.train import optim, progress
from paddleseg_slim.train.checkpoint import find_resume, restore
from paddleseg_slim.train.evaluate import batches, evaluate, model_forward
from paddleseg_slim.train.hooks import Hook
from paddleseg_slim.train.loop import TrainSettings, train
from paddleseg_slim.train.progress import Progress


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(config_from_dict(CLASSIFICATION))


def fit(task: Any, folder: Path, model: Any = None, **changes: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Train and return the result and the weights."""
    hooks = changes.pop("hooks", ())
    if model is None:
        paddle.seed(5)
        model = task.build_model()
    settings = TrainSettings(**{"iters": 4, "batch_size": 4, "save_dir": folder, "do_eval": False, **changes})
    schedule = optim.build_schedule(task.config.lr_scheduler, settings.iters)
    optimizer = optim.build_optimizer(task.config.optimizer, schedule, model)
    result = train(model, task, optimizer, settings, hooks=hooks)
    return result, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_workers_and_evaluations_do_not_change_the_weights(task: Task, tmp_path: Path) -> None:
    _, plain = fit(task, tmp_path / "a")
    _, other = fit(task, tmp_path / "b", num_workers=2, do_eval=True, save_interval=1, log_iters=3)
    assert all(np.array_equal(plain[name], other[name]) for name in plain)
    _, seeded = fit(task, tmp_path / "c", seed=43)
    assert any(not np.array_equal(plain[name], seeded[name]) for name in plain)


class _Recorder(Hook):
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def extra_loss(self, model: Any, outputs: Any, batch: Batch) -> dict[str, Any]:
        self.calls.append(("loss", sorted(batch)))
        return {"twice": outputs.mean() * 0 + 2.0}

    def before_step(self, step: int) -> None:
        self.calls.append(("before", step))

    def after_step(self, step: int) -> None:
        self.calls.append(("after", step))

    def on_save(self, folder: Path) -> None:
        (folder / "extra.txt").write_text("mine")


def test_hooks_are_called_and_their_files_belong_to_the_checkpoint(task: Task, tmp_path: Path) -> None:
    hook = _Recorder()
    result, _ = fit(task, tmp_path, hooks=[hook], iters=2)
    assert [call for call in hook.calls if call[0] != "loss"] == [
        ("before", 1),
        ("after", 1),
        ("before", 2),
        ("after", 2),
    ]
    assert (result.folder / "extra.txt").read_text() == "mine"
    from paddleseg_slim.train.checkpoint import check_checkpoint

    assert check_checkpoint(result.folder).iter == 2
    (result.folder / "extra.txt").write_text("changed")
    with pytest.raises(UserError, match="damaged"):
        check_checkpoint(result.folder)


class _Poison(Hook):
    """Makes the loss NaN at one step."""

    def __init__(self, step: int) -> None:
        self._step, self._now = step, 0

    def before_step(self, step: int) -> None:
        self._now = step

    def extra_loss(self, model: Any, outputs: Any, batch: Batch) -> dict[str, Any]:
        return {"poison": outputs.mean() * (float("nan") if self._now == self._step else 0.0)}


def test_nan_at_a_step_stops_before_the_next_checkpoint(task: Task, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"between the iterations 3 and 4; .*iter_2"):
        fit(task, tmp_path, hooks=[_Poison(3)], save_interval=2, log_iters=100)
    assert [path.name for path in sorted(tmp_path.glob("iter_*"))] == ["iter_2"]


def test_early_stop_and_best(task: Task, tmp_path: Path) -> None:
    class Frozen(Hook):
        """Undoes every update, so that no evaluation is better than the first."""

        def __init__(self, model: Any) -> None:
            self._model = model
            self._state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def after_step(self, step: int) -> None:
            self._model.set_state_dict(self._state)

    paddle.seed(1)
    model = task.build_model()
    changes = {"iters": 9, "save_interval": 1, "do_eval": True, "early_stop_intervals": 2}
    result, _ = fit(task, tmp_path, model, hooks=[Frozen(model)], **changes)
    assert result.iters == 3
    assert result.best["iter"] == 1
    assert result.best["score"] == result.metrics.score


def test_evaluation_does_not_depend_on_the_batch_size_and_sums_up(task: Task) -> None:
    paddle.seed(5)
    model = task.build_model()
    found = [evaluate(model_forward(model), task, batch_size=size, num_workers=size % 2) for size in (1, 3, 8)]
    assert found[0] == found[1] == found[2]
    assert found[0].images == len(task.val_dataset())


def test_batches_keep_order_and_equal_shapes() -> None:
    sizes = [(2, 2), (2, 2), (2, 3), (2, 2), (2, 2), (2, 2)]
    data = [
        {"img": np.full((3, *size), i), "label": i, "trans_info": [], "name": str(i)} for i, size in enumerate(sizes)
    ]
    found = [batch["label"].tolist() for batch in batches(data, 2, num_workers=0)]
    assert found == [[0, 1], [2], [3, 4], [5]]
    assert [batch["label"].tolist() for batch in batches(data, 2, 2, rank=1, world=2)] == [[1, 3], [5]]


def test_segmentation_and_graph_layers_train_in_the_same_loop(tmp_path: Path) -> None:
    graph = pytest.importorskip("paddleseg_slim.graph")
    task = build_task(config_from_dict({**SEGMENTATION, "model": {"type": "FastSCNN"}}))
    paddle.seed(5)
    model = task.build_model()
    captured = graph.capture(model, task.input_spec())
    paddle.seed(5)
    _, plain = fit(task, tmp_path / "a", task.build_model(), iters=2, batch_size=2)
    _, traced = fit(task, tmp_path / "b", captured, iters=2, batch_size=2)
    assert set(plain) == set(traced)
    assert all(np.allclose(plain[name], traced[name], atol=1e-5) for name in plain)


def test_progress_prints_lines_with_an_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(progress.__name__)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with Progress(4, "Working") as bar:
            bar.step()
            bar.step(3)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert [line.split(" | ")[0] for line in lines] == ["Working 1/4", "Working 4/4"]
    assert lines[-1].endswith("ETA 00:00:00")


@pytest.mark.parametrize("kind", ["SGD", "Momentum", "Adam", "AdamW"])
def test_resume_equals_the_uninterrupted_run(kind: str, tmp_path: Path) -> None:
    """Dropout, optimizer state and schedule go on; parameters may have other names than in the first process."""
    task = build_task(config_from_dict({**CLASSIFICATION, "optimizer": {"type": kind, "weight_decay": 0.01}}))
    _, whole = fit(task, tmp_path / "whole", save_interval=2)
    paddle.seed(99)
    model = task.build_model()
    settings = TrainSettings(iters=4, batch_size=4, save_dir=tmp_path / "rest", do_eval=False)
    schedule = optim.build_schedule(task.config.lr_scheduler, 4)
    optimizer = optim.build_optimizer(task.config.optimizer, schedule, model)
    found = find_resume(tmp_path / "whole/iter_2")
    train(model, task, optimizer, settings, resume=found)
    assert all(np.array_equal(tensor.numpy(), whole[name]) for name, tensor in model.state_dict().items())


def test_resume_with_another_optimizer_is_refused(task: Any, tmp_path: Path) -> None:
    result, _ = fit(task, tmp_path, iters=1)
    model = task.build_model()
    momentum = ComponentSpec.parse({"type": "Momentum"}, "optimizer")
    optimizer = optim.build_optimizer(momentum, optim.build_schedule(task.config.lr_scheduler, 4), model)
    with pytest.raises(UserError, match="another optimizer than Momentum"):
        restore(find_resume(result.folder), model, optimizer)


def test_a_checkpoint_of_paddleseg_has_no_manifest(task: Any, tmp_path: Path) -> None:
    result, _ = fit(task, tmp_path, iters=2, save_interval=1)
    (result.folder / "manifest.json").unlink()
    found = find_resume(result.folder)
    assert found.manifest is None
    assert found.iter == 2

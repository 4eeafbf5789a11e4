"""Schedules against their formulas, optimizers against their update rules, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import pytest

from paddleseg_slim.config import ComponentSpec
from paddleseg_slim.errors import UserError
from paddleseg_slim.train.optim import build_optimizer, build_schedule


def spec(key_path: str = "lr_scheduler", **section: Any) -> ComponentSpec:
    return ComponentSpec.parse(section, key_path)


def rates(schedule: Any, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(float(schedule()))
        schedule.step()
    return values


def test_poly_with_warmup_is_that_of_paddleseg() -> None:
    section = {"type": "PolynomialDecay", "learning_rate": 0.1, "end_lr": 0.01, "power": 0.9}
    found = rates(build_schedule(spec(**section, warmup_iters=4, warmup_start_lr=0.02), 20), 20)
    warm = [0.02 + (0.1 - 0.02) * step / 4 for step in range(4)]
    decay = [(0.1 - 0.01) * (1 - step / 16) ** 0.9 + 0.01 for step in range(16)]
    assert found == pytest.approx(warm + decay, rel=1e-9)


def test_cosine_ends_with_the_training() -> None:
    found = rates(build_schedule(spec(type="CosineAnnealingDecay", learning_rate=0.1), 10), 10)
    assert found == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 10)) for step in range(10)], rel=1e-6)


SCHEDULES: list[dict[str, Any]] = [
    {"type": "PolynomialDecay", "learning_rate": 0.1},
    {"type": "CosineAnnealingDecay", "learning_rate": 0.1},
    {"type": "PiecewiseDecay", "boundaries": [3, 6], "values": [0.1, 0.01, 0.001]},
    {"type": "StepDecay", "learning_rate": 0.1, "step_size": 4},
    {"type": "MultiStepDecay", "learning_rate": 0.1, "milestones": [3, 7]},
    {"type": "ExponentialDecay", "learning_rate": 0.1, "gamma": 0.9},
    {"type": "NoamDecay", "d_model": 16, "warmup_steps": 4, "learning_rate": 0.1},
    {"type": "OneCycleLR", "max_learning_rate": 0.1, "total_steps": 12},
    {"type": "ConstantLR", "learning_rate": 0.1},
]


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("section", SCHEDULES, ids=lambda section: section["type"])
def test_every_schedule_resumes_where_it_was(section: dict[str, Any], warmup: int) -> None:
    if warmup and "learning_rate" not in section:
        section = {**section, "learning_rate": 0.1}
        with pytest.raises(UserError, match="learning_rate"):
            build_schedule(spec(**section, warmup_iters=warmup, warmup_start_lr=0.01), 12)
        return
    warm = {"warmup_iters": warmup, "warmup_start_lr": 0.01} if warmup else {}
    schedule, again = (build_schedule(spec(**section, **warm), 12) for _ in range(2))
    rates(schedule, 5)
    again.set_state_dict(schedule.state_dict())
    assert rates(again, 6) == pytest.approx(rates(schedule, 6), rel=1e-12)


def layer() -> paddle.nn.Layer:
    paddle.seed(0)
    return paddle.nn.Sequential(("backbone", paddle.nn.Linear(3, 3)), ("head", paddle.nn.Linear(3, 2)))


def step(
    section: dict[str, Any], rate: float = 0.1
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights before and after one step, and the gradients of it."""
    model = layer()
    optimizer = build_optimizer(spec("optimizer", **section), rate, model)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    (model(paddle.ones([4, 3])) ** 2).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    optimizer.step()
    return before, {name: p.numpy() for name, p in model.named_parameters()}, gradients


@pytest.mark.parametrize("kind", ["SGD", "sgd"])
def test_sgd_with_decay_and_parameter_groups(kind: str) -> None:
    groups = [{"name": "backbone", "lr_mult": 0.5}, {"name": "bias", "weight_decay_mult": 0.0}]
    before, after, gradients = step({"type": kind, "weight_decay": 0.01, "custom_cfg": groups})
    for name, value in before.items():
        rate = 0.05 if "backbone" in name else 0.1
        decay = 0.0 if name == "head.bias" else 0.01
        expected = value - rate * (gradients[name] + decay * value)
        assert np.allclose(after[name], expected, atol=1e-6), name


def test_momentum_is_taken_from_sgd_as_in_paddleseg() -> None:
    assert type(build_optimizer(spec("optimizer", type="SGD", momentum=0.9), 0.1, layer())).__name__ == "Momentum"


def test_adamw_decouples_the_decay() -> None:
    before, after, gradients = step({"type": "AdamW", "weight_decay": 0.1})
    for name, value in before.items():
        update = gradients[name] / (np.abs(gradients[name]) + 1e-8)  # the first step of Adam
        assert np.allclose(after[name], value * (1 - 0.1 * 0.1) - 0.1 * update, atol=1e-5), name


def test_global_norm_is_clipped() -> None:
    clip = {"name": "ClipGradByGlobalNorm", "clip_norm": 0.01}
    before, after, _ = step({"type": "SGD", "grad_clip_cfg": clip}, rate=1.0)
    moved = math.sqrt(sum(float(((after[name] - value) ** 2).sum()) for name, value in before.items()))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_frozen_parameters_stay() -> None:
    model = layer()
    for parameter in model.backbone.parameters():
        parameter.stop_gradient = True
    optimizer = build_optimizer(spec("optimizer", type="SGD", weight_decay=0.1), 0.1, model)
    before = model.backbone.weight.numpy().copy()
    (model(paddle.ones([4, 3])) ** 2).sum().backward()
    optimizer.step()
    assert np.array_equal(model.backbone.weight.numpy(), before)


@pytest.mark.parametrize(
    ("section", "phrase"),
    [
        ({"type": "SGD", "momentun": 0.9}, "optimizer.momentun"),
        ({"type": "SGD", "learning_rate": 0.9}, "optimizer.learning_rate"),
        ({"type": "SGD", "weight_decay": "much"}, "optimizer.weight_decay"),
        ({"type": "Adamm"}, "Adamm"),
        ({"type": "SGD", "grad_clip_cfg": {"name": "Clip"}}, "Clip"),
        ({"type": "SGD", "grad_clip_cfg": {"name": "ClipGradByNorm", "norm": 1}}, "optimizer.grad_clip_cfg.norm"),
        ({"type": "SGD", "custom_cfg": [{"name": "neck", "lr_mult": 2}]}, "neck"),
        ({"type": "SGD", "custom_cfg": [{"name": "head", "lr": 2}]}, r"custom_cfg\[0\].lr"),
    ],
)
def test_what_does_not_exist_is_refused(section: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UserError, match=phrase):
        build_optimizer(spec("optimizer", **section), 0.1, layer())

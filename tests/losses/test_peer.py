"""Values and gradients of the other losses against PaddleSeg 2.8.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import peers
import pytest

import paddleseg_slim.losses  # noqa: F401
from paddleseg_slim.registry import LOSSES

pytestmark = pytest.mark.peer

Call = Callable[[Any, paddle.Tensor, paddle.Tensor], paddle.Tensor]


def plain(loss: Any, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
    return loss(logits, label)


def binary(loss: Any, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
    return loss(logits, paddle.where(label == 255, label, label % 2))


def teacher(loss: Any, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
    return loss(logits, logits.detach().flip(0), label)


def edges(loss: Any, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
    paddle.seed(3)
    return loss((logits, paddle.rand([label.shape[0], 1, *label.shape[1:]])), label)


CASES: list[tuple[str, dict[str, Any], int, Call]] = [
    ("DiceLoss", {}, 5, plain),
    ("DiceLoss", {"weight": [1.0, 2.0, 3.0, 1.0, 0.5], "smooth": 0.1}, 5, plain),
    ("FocalLoss", {"alpha": 0.4, "gamma": 3.0}, 2, binary),
    ("MultiClassFocalLoss", {"num_class": 5, "alpha": 0.5, "gamma": 3.0}, 5, plain),
    ("LovaszSoftmaxLoss", {}, 5, plain),
    ("LovaszSoftmaxLoss", {"classes": "all"}, 8, plain),
    ("LovaszSoftmaxLoss", {"classes": "present"}, 8, plain),
    ("LovaszSoftmaxLoss", {"classes": [1, 3]}, 5, plain),
    ("LovaszHingeLoss", {}, 1, binary),
    ("KLLoss", {"temperature": 2.0}, 5, teacher),
    ("EdgeAttentionLoss", {"edge_threshold": 0.5}, 5, edges),
    *(
        ("BCELoss", {"weight": weight, "pos_weight": positive}, channels, call)
        for channels, call in ((5, plain), (1, binary))
        for weight in (None, "dynamic")
        for positive in (None, "dynamic", 2.5)
    ),
]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("name", "args", "channels", "call"), CASES, ids=lambda case: getattr(case, "__name__", str(case))
)
def test_value_and_gradient_are_paddlesegs(
    name: str, args: dict[str, Any], channels: int, call: Call, ignored: bool
) -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, channels, 11, 13), dtype=np.float32)
    label = rng.integers(0, 5, (2, 11, 13))
    if ignored:
        label[:, :3] = 255
    results = []
    for loss in (LOSSES.get(name)(**args), peers.paddleseg_component("LOSSES", name)(**args)):
        x = paddle.to_tensor(logits, stop_gradient=False)
        value = call(loss, x, paddle.to_tensor(label))
        value.backward()
        results.append((float(value), x.grad.numpy()))
    (value, gradient), (expected, expected_gradient) = results
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("size", [(16, 20), (6, 7)])
def test_detail_loss_is_paddlesegs_with_the_weights_of_the_paper(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 1, *size), dtype=np.float32)
    label = np.kron(rng.integers(0, 5, (2, 4, 5)), np.ones((1, 4, 4), int))
    theirs = peers.paddleseg_component("LOSSES", "DetailAggregateLoss")()
    theirs.fuse_kernel.set_value(np.array([0.6, 0.3, 0.1], np.float32).reshape(1, 3, 1, 1))
    found, expected = (
        float(loss(paddle.to_tensor(logits), paddle.to_tensor(label)))
        for loss in (LOSSES.get("DetailAggregateLoss")(), theirs)
    )
    assert found == pytest.approx(expected, rel=1e-5)

"""What the losses promise beyond PaddleSeg's values, and their weighted sum."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import paddle
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.losses import (
    BCELoss,
    CombinedLoss,
    CrossEntropyLoss,
    DetailAggregateLoss,
    DiceLoss,
    FocalLoss,
    KLLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
    MultiClassFocalLoss,
    build_loss,
)


def batch(channels: int = 3, classes: int = 3) -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, channels, 8, 12), dtype=np.float32)
    return paddle.to_tensor(logits, stop_gradient=False), paddle.to_tensor(rng.integers(0, classes, (2, 8, 12)))


def jaccard_extension(errors: np.ndarray, foreground: np.ndarray) -> float:
    """The Lovász extension by its definition: a sum over chains of ever larger sets of errors (Berman, eq. 3)."""
    order = np.argsort(-errors, kind="stable")
    total, before = 0.0, 0.0
    for count in range(1, len(errors) + 1):
        wrong = np.zeros(len(errors), bool)
        wrong[order[:count]] = True
        union = (foreground | wrong).sum()
        after = wrong.sum() / union if union else 0.0
        total += errors[order[count - 1]] * (after - before)
        before = after
    return total


def test_lovasz_softmax_is_the_extension_by_definition() -> None:
    logits, label = batch()
    label[:, :3] = 255
    exponent = np.exp(np.moveaxis(logits.numpy(), 1, -1).astype(np.float64))
    probability = exponent / exponent.sum(-1, keepdims=True)
    known = label.numpy() != 255
    terms = []
    for index in range(3):
        foreground = label.numpy()[known] == index
        terms.append(jaccard_extension(np.abs(foreground - probability[known][:, index]), foreground))
    assert float(LovaszSoftmaxLoss()(logits, label)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_lovasz_hinge_of_two_channels_is_that_of_their_difference() -> None:
    logits, label = batch(2, 2)
    difference = logits[:, 1:] - logits[:, :1]
    assert float(LovaszHingeLoss()(logits, label)) == pytest.approx(float(LovaszHingeLoss()(difference, label)))


def test_a_right_and_sure_prediction_costs_nothing() -> None:
    _, label = batch()
    sure = 40 * paddle.nn.functional.one_hot(label, 3).transpose([0, 3, 1, 2]) - 20
    for loss in (CrossEntropyLoss(), DiceLoss(), LovaszSoftmaxLoss(), MultiClassFocalLoss(3), BCELoss()):
        assert float(loss(sure, label)) == pytest.approx(0, abs=1e-5), type(loss).__name__


@pytest.mark.parametrize(
    ("loss", "channels"),
    [
        (DiceLoss(), 3),
        (BCELoss(), 3),
        (FocalLoss(), 2),
        (MultiClassFocalLoss(3), 3),
        (LovaszSoftmaxLoss(), 3),
        (LovaszHingeLoss(), 1),
        (DetailAggregateLoss(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ignored_pixels_have_no_gradient_and_change_nothing(loss: Any, channels: int) -> None:
    logits, label = batch(channels, 2)
    label[:, :, :5] = 255
    first = loss(logits, label)
    first.backward()
    assert float(logits.grad[:, :, :, :5].abs().sum()) == 0
    assert float(logits.grad[:, :, :, 5:].abs().sum()) > 0
    other = logits.detach().clone()
    other[:, :, :, :5] = 7.0
    assert float(loss(other, label)) == pytest.approx(float(first), rel=1e-6)
    assert (label[:, :, :5] == 255).all(), "the caller's label was changed"


@pytest.mark.parametrize("loss", [DiceLoss(), LovaszSoftmaxLoss(), FocalLoss(), BCELoss(), DetailAggregateLoss()])
def test_nothing_but_ignored_pixels_gives_a_finite_loss_and_no_gradient(loss: Any) -> None:
    logits, label = batch(1 if isinstance(loss, DetailAggregateLoss) else 2)
    value = loss(logits, paddle.full_like(label, 255))
    value.backward()
    assert np.isfinite(float(value))
    assert float(logits.grad.abs().sum()) == 0


def test_edges_of_a_square() -> None:
    label = paddle.zeros([1, 16, 16], "int64")
    label[:, 4:12, 4:12] = 1
    found = DetailAggregateLoss().edges(label, paddle.ones([1, 1, 16, 16]))[0, 0].numpy()
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    core = np.zeros((16, 16), bool)
    core[5:11, 5:11] = True
    assert (found[inside & ~core] == 1).all(), "the square's own border"
    assert found[7:9, 7:9].sum() == 0 and found[:3].sum() == 0, "its middle and the far background"


def test_divergence_of_equal_logits_is_zero_and_of_others_positive() -> None:
    logits, label = batch()
    assert float(KLLoss()(logits, logits.detach())) == pytest.approx(0, abs=1e-7)
    assert float(KLLoss(temperature=4)(logits, logits.detach().flip(0), label)) > 0
    with pytest.raises(ValueError, match="shape"):
        KLLoss()(logits, logits[:, :2])


def test_mixed_loss_is_the_weighted_sum() -> None:
    logits, label = batch()
    mixed = MixedLoss([CrossEntropyLoss(), DiceLoss()], [0.8, 0.2])(logits, label)
    expected = 0.8 * float(CrossEntropyLoss()(logits, label)) + 0.2 * float(DiceLoss()(logits, label))
    assert float(mixed) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="2 losses, but 1"):
        MixedLoss([CrossEntropyLoss(), DiceLoss()], [1])


def test_combined_loss_sums_over_outputs_and_names_the_terms() -> None:
    logits, label = batch()
    outputs = [logits, 2 * logits, 3 * logits]
    one_type = CombinedLoss([CrossEntropyLoss()], [1, 0.5, 0.25])(outputs, label)
    terms = [float(CrossEntropyLoss()(x, label)) * c for x, c in zip(outputs, (1, 0.5, 0.25))]
    assert [float(one_type[f"loss_{i}"]) for i in range(3)] == pytest.approx(terms)
    assert float(one_type["loss"]) == pytest.approx(sum(terms))
    each = CombinedLoss([CrossEntropyLoss(), DiceLoss(), LovaszSoftmaxLoss()], [1, 1, 1])(outputs, label)
    assert float(each["loss_1"]) == pytest.approx(float(DiceLoss()(outputs[1], label)))
    assert list(CombinedLoss([DiceLoss()], [1])(logits, label)) == ["loss"]


def test_combined_loss_feeds_edges_and_divergences() -> None:
    logits, label = batch()
    edge = (label == 1).astype("int64")
    combined = CombinedLoss([CrossEntropyLoss(), BCELoss(edge_label=True)], [1, 1])
    found = combined([logits, logits[:, :1]], label, edge)["loss_1"]
    assert float(found) == pytest.approx(float(BCELoss()(logits[:, :1], edge)))
    with pytest.raises(UserError, match="edge"):
        combined([logits, logits[:, :1]], label)
    other = (2 * logits.detach()).clone()
    other.stop_gradient = False
    kl = CombinedLoss([CrossEntropyLoss(), KLLoss()], [1, 3])([logits, other], label)["loss_1"]
    assert float(kl) == pytest.approx(3 * float(KLLoss()(logits, other)))
    kl.backward()
    assert other.grad is None or float(other.grad.abs().sum()) == 0, "the second output is the teacher"


def test_counts_that_differ_are_named() -> None:
    logits, label = batch()
    with pytest.raises(UserError, match="2 entries in `types`, but 3 in `coef`"):
        CombinedLoss([DiceLoss(), DiceLoss()], [1, 1, 1])
    with pytest.raises(UserError, match="2 values in `coef`, but the model has 1 outputs"):
        CombinedLoss([DiceLoss()], [1, 1])([logits], label)


def test_a_loss_is_built_from_its_section() -> None:
    inner = [{"type": "CrossEntropyLoss"}, {"type": "LovaszSoftmaxLoss"}]
    section = {"types": [{"type": "MixedLoss", "losses": inner, "coef": [0.8, 0.2]}], "coef": [1, 0.4]}
    loss = build_loss(section, ignore_index=7)
    assert loss.coef == [1.0, 0.4]
    assert {part.ignore_index for mixed in loss.types for part in mixed.losses} == {7}
    assert inner == [{"type": "CrossEntropyLoss"}, {"type": "LovaszSoftmaxLoss"}], "the section was changed"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"types": [{"type": "CrossEntropyLos"}], "coef": [1]}, "CrossEntropyLos"),
        ({"types": [{"type": "DiceLoss", "smoth": 1}], "coef": [1]}, "smoth"),
        ({"types": [{"type": "MultiClassFocalLoss"}], "coef": [1]}, "num_class"),
        ({"types": [{"type": "DiceLoss", "ignore_index": 9}], "coef": [1]}, "ignore_index is 9"),
        ({"types": [{"type": "DiceLoss"}] * 2, "coef": [1, 1, 1]}, "2 types and 3 coef"),
        ({"coef": [1]}, "types"),
    ],
)
def test_a_section_that_cannot_work_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_loss(section, ignore_index=255)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LovaszSoftmaxLoss(classes="some"),
        lambda: BCELoss(weight="static"),
        lambda: FocalLoss()(*batch(3)),
        lambda: MultiClassFocalLoss(4)(*batch(3)),
        lambda: DiceLoss(weight=[1, 2])(*batch(3)),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(UserError):
        make()


def test_training_descends() -> None:
    """Every loss, by gradient steps on the logits, leads to the label."""
    _, label = batch(2, 2)
    for loss, channels in itertools.product(
        (CrossEntropyLoss(), DiceLoss(), LovaszSoftmaxLoss(), FocalLoss(0.5), BCELoss()), (2,)
    ):
        logits = paddle.zeros([2, channels, 8, 12])
        logits.stop_gradient = False
        optimizer = paddle.optimizer.Adam(0.5, parameters=[logits])
        for _ in range(15):
            loss(logits, label).backward()
            optimizer.step()
            optimizer.clear_grad()
        assert float((logits.argmax(1) == label).astype("float32").mean()) == 1.0, type(loss).__name__

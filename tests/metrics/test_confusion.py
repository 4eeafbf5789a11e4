"""The confusion matrix and what is computed from it, against loops, hand-worked cases and PaddleSeg."""

from __future__ import annotations

import numpy as np
import paddle
import peers
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.metrics import SegmentationAccumulator, confusion_matrix
from paddleseg_slim.metrics.confusion import accuracy, class_dice, class_iou, kappa


def scene(seed: int, classes: int, ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((3, classes, 9, 7), dtype=np.float32)
    label = rng.integers(0, classes, (3, 9, 7))
    if ignored:
        label[:, :2] = 255
    return logits, label


def test_every_pixel_is_counted_where_it_belongs() -> None:
    logits, label = scene(0, 4)
    prediction = logits.argmax(1)
    expected = np.zeros((4, 4), int)
    for truth, guess in zip(label.flat, prediction.flat):
        if truth != 255:
            expected[truth, guess] += 1
    found = confusion_matrix(prediction, label, 4)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("ignore_index", [0, 3, 255])
def test_an_ignored_value_counts_for_nothing_whatever_it_is(dtype: type, ignore_index: int) -> None:
    prediction = np.array([0, 1, 2, 3, 3], dtype)
    label = np.array([0, 1, 1, 3, ignore_index], dtype)
    matrix = confusion_matrix(prediction, label, 4, ignore_index)
    assert matrix.sum() == (label != ignore_index).sum()
    if ignore_index < 4:
        assert matrix[ignore_index].sum() == 0


@pytest.mark.parametrize("ignore_index", [-100, 10**6])
def test_an_ignored_value_may_be_any_number(ignore_index: int) -> None:
    label = np.array([0, 1, ignore_index, 3, 0])
    assert confusion_matrix(np.array([0, 1, 2, 3, 1]), label, 4, ignore_index).sum() == 4
    label[1] = 4
    with pytest.raises(UserError, match="is 4:"):
        confusion_matrix(np.array([0, 1, 2, 3, 1]), label, 4, ignore_index)
    assert not confusion_matrix(np.array([0]), np.array([ignore_index]), 4, ignore_index).any()


def test_hand_worked_example() -> None:
    matrix = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(class_iou(matrix), [3 / 6, 4 / 7, np.nan])
    np.testing.assert_allclose(class_dice(matrix), [6 / 9, 8 / 11, np.nan])
    assert accuracy(matrix) == 0.7
    by_chance = (5 * 4 + 5 * 6) / 100
    assert kappa(matrix) == pytest.approx((0.7 - by_chance) / (1 - by_chance))


def test_kappa_of_one_single_class_is_zero() -> None:
    assert kappa(np.array([[8, 0], [0, 0]])) == 0.0


@pytest.mark.peer
def test_where_every_class_occurs_the_numbers_are_paddlesegs() -> None:
    metrics = peers.paddleseg("paddleseg.utils.metrics")
    logits, label = scene(1, 5)
    accumulator = SegmentationAccumulator(5)
    accumulator.update([logits], {"label": label})
    matrix = accumulator.counts
    areas = [paddle.to_tensor(area) for area in (np.diag(matrix), matrix.sum(0), matrix.sum(1))]
    values = accumulator.result().values
    classes, mean = metrics.mean_iou(*areas)
    assert values["mIoU"] == pytest.approx(mean)
    np.testing.assert_allclose(list(accumulator.result().per_class.values()), classes)
    assert values["Acc"] == pytest.approx(metrics.class_measurement(*areas)[0])
    assert values["Kappa"] == pytest.approx(metrics.kappa(*areas))
    assert values["Dice"] == pytest.approx(metrics.dice(*areas)[1])


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: logits,
        lambda logits: [logits, logits[::-1]],
        lambda logits: [paddle.to_tensor(logits)],
        lambda logits: logits.argmax(1).astype(np.int32),
        lambda logits: [paddle.to_tensor(logits.argmax(1)[:, None])],
    ],
    ids=["logits", "several outputs", "tensors", "classes", "class tensors"],
)
def test_outputs_of_every_form_count_the_same(form) -> None:
    logits, label = scene(2, 3)
    accumulator = SegmentationAccumulator(3)
    accumulator.update(form(logits), {"label": paddle.to_tensor(label)})
    np.testing.assert_array_equal(accumulator.counts, confusion_matrix(logits.argmax(1), label, 3))
    assert accumulator.images == 3


def test_counts_of_parts_add_up() -> None:
    logits, label = scene(3, 3)
    whole, part = SegmentationAccumulator(3), SegmentationAccumulator(3)
    whole.update(logits, {"label": label})
    for i in range(3):
        part.update(logits[i : i + 1], {"label": label[i : i + 1, None]})
    assert part.result() == whole.result()


def test_an_absent_class_is_none_and_leaves_the_means_alone() -> None:
    logits, label = scene(4, 3)
    label[label == 1] = 0
    logits[:, 1] = -100
    accumulator = SegmentationAccumulator(3, ["sky", "sea", "land"])
    accumulator.update(logits, {"label": label})
    result = accumulator.result()
    assert result.per_class["sea"] is None
    assert result.score == pytest.approx((result.per_class["sky"] + result.per_class["land"]) / 2)
    assert all(np.isfinite(value) for value in result.values.values())


def test_a_class_only_predicted_is_present_with_zero() -> None:
    accumulator = SegmentationAccumulator(2)
    accumulator.update(np.array([[[0, 1]]]), {"label": np.array([[[0, 0]]])})
    assert accumulator.result().per_class == {"0": 0.5, "1": 0.0}


def test_nothing_but_ignored_pixels_is_an_error_not_nan() -> None:
    logits, label = scene(5, 3)
    accumulator = SegmentationAccumulator(3)
    accumulator.update(logits, {"label": np.full_like(label, 255)})
    with pytest.raises(UserError, match="3 images"):
        accumulator.result()


@pytest.mark.parametrize("wrong", [3, 254, -1, 10**9])
def test_a_label_that_is_no_class_is_refused_by_its_value(wrong: int) -> None:
    logits, label = scene(6, 3)
    label[0, 5, 5] = wrong
    with pytest.raises(UserError, match=f"is {wrong}:"):
        confusion_matrix(logits.argmax(1), label, 3)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)

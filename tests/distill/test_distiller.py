"""The trainer hook: taps, adapters, the teacher's gradients, the cache; mutual learning."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim.distill import Distiller, Taps, Term, automatic_pairs, losses
from paddleseg_slim.distill.distiller import ADAPTERS, Mutual
from paddleseg_slim.distill.settings import terms_of_list
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture

SHAPE = (2, 3, 16, 16)


class Net(nn.Layer):
    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, width, 3, 2, 1), nn.BatchNorm2D(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2D(width, 2 * width, 3, 2, 1), nn.BatchNorm2D(2 * width), nn.ReLU())
        self.head = nn.Conv2D(2 * width, 4, 1)

    def forward(self, x):
        return [nn.functional.interpolate(self.head(self.deep(self.stem(x))), size=[16, 16], mode="bilinear")]


def _graph(width: int, seed: int):
    paddle.seed(seed)
    return capture(Net(width), [InputSpec([None, 3, 16, 16], "float32", "x")])


def _first(outputs):
    return outputs[0]


@pytest.fixture
def models():
    return _graph(4, 1), _graph(6, 2)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "img": paddle.to_tensor(rng.normal(size=SHAPE).astype("float32")),
        "label": paddle.to_tensor(rng.integers(0, 4, (2, 16, 16))),
    }


def test_taps_give_the_features_and_leave_the_outputs(models, batch):
    model = models[0]
    before = model(batch["img"])[0].numpy()
    taps = Taps(model, ["stem", "deep.0"], training=True)
    outputs = model(batch["img"])
    np.testing.assert_array_equal(outputs[0].numpy(), before)
    assert [list(value.shape) for value in taps.features] == [[2, 4, 8, 8], [2, 8, 4, 4]]
    assert float(taps.features[0].min()) >= 0  # behind the ReLU, the last node of the layer
    model.eval()
    assert isinstance(model(batch["img"]), list)
    taps.remove()
    model.train()
    np.testing.assert_array_equal(model(batch["img"])[0].numpy(), before)


def test_a_tap_that_fits_nothing_is_refused_with_the_nearest_names(models):
    with pytest.raises(UserError, match="stemm") as caught:
        Taps(models[0], ["stemm"], training=True)
    assert "stem" in caught.value.remedy


def test_stages_of_equal_resolution_are_paired(models):
    student, teacher = models
    pairs = automatic_pairs(student.train_graph, teacher.eval_graph, SHAPE)
    assert [pair[0].split("/")[0] for pair in pairs] == ["stem.2", "deep.2"]
    assert pairs[0][0] == pairs[0][1]


@pytest.mark.parametrize("loss", [losses.CWDLoss(), losses.L2FeatureLoss(), losses.FSPLoss(), losses.PairwiseLoss()])
def test_features_are_learned_and_the_teacher_is_not(models, batch, loss):
    """The losses fall; adapters exist exactly where channels differ, learn, and are gone in the end."""
    student, teacher = models
    names = set(student.state_dict())
    hook = Distiller(student, teacher, [Term(loss, 1.0, "auto")], _first, SHAPE)
    adapters = [p for n, p in student.named_parameters() if n.startswith(ADAPTERS)]
    assert len(adapters) == (0 if isinstance(loss, losses.PairwiseLoss) else 2)
    optimizer = paddle.optimizer.Adam(0.01, parameters=student.parameters())
    before = {n: t.numpy().copy() for n, t in teacher.tensors()}
    values = []
    for step in range(1, 13):
        hook.before_step(step)
        value = hook.extra_loss(student, student(batch["img"]), batch)["distill_loss_0"]
        value.backward()
        assert all(p.grad is None for p in teacher.parameters())
        optimizer.step()
        optimizer.clear_grad()
        values.append(float(value))
    assert values[-1] < 0.9 * values[0]
    for name, tensor in teacher.tensors():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    hook.remove()
    assert set(student.state_dict()) == names


def test_weights_follow_their_schedule():
    term = Term(losses.KDLoss(), 2.0, start=10, ramp=4)
    assert [term.at(step) for step in (1, 10, 11, 12, 14, 99)] == [0, 0, 0.5, 1.0, 2.0, 2.0]


def test_cached_teacher_outputs_are_those_of_the_teacher(models, batch, tmp_path):
    student, teacher = models
    terms = [Term(losses.KDLoss()), Term(losses.L2FeatureLoss(), 1.0, "stem", "stem")]
    hook = Distiller(student, teacher, terms, _first, SHAPE, cache=tmp_path)
    student.eval()
    student.train()
    hook.before_step(1)
    first = hook.extra_loss(student, student(batch["img"]), batch)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    hook.teacher = None  # what comes now is from the disk
    shuffled = {key: value[::-1] for key, value in batch.items()}
    second = hook.extra_loss(student, student(shuffled["img"]), shuffled)
    for name, value in first.items():
        assert float(second[name]) == pytest.approx(float(value), rel=1e-5)


def test_mutual_students_both_learn(models, batch):
    student, peer = models
    names = set(student.state_dict())

    def task_loss(outputs, batch):
        return {"loss": nn.functional.cross_entropy(outputs[0], batch["label"], axis=1)}

    hook = Mutual(student, [peer], task_loss, _first, losses.DMLLoss())
    optimizer = paddle.optimizer.Adam(0.02, parameters=student.parameters())
    peer_before = peer.tensor("head.weight").numpy().copy()
    totals = []
    for _ in range(10):
        outputs = student(batch["img"])
        extra = hook.extra_loss(student, outputs, batch)
        total = task_loss(outputs, batch)["loss"] + extra["peer_loss"] + extra["mutual_loss"]
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
        totals.append(float(total))
    assert totals[-1] < totals[0]
    assert np.abs(peer.tensor("head.weight").numpy() - peer_before).max() > 1e-3
    hook.remove()
    assert set(student.state_dict()) == names


def test_old_items_are_read():
    terms = terms_of_list(
        [
            {"feature_type": "hidden", "s_feature_idx": 1, "t_feature_idx": 1, "loss_function": "SegPairWiseLoss"},
            {"feature_type": "logits", "loss_function": "SegChannelwiseLoss", "weight": 3},
        ]
    )
    assert (terms[0].student, terms[0].teacher, terms[1].student, terms[1].weight) == ("auto:1", "auto:1", "", 3.0)
    with pytest.raises(UserError, match="wieght"):
        terms_of_list([{"loss": "KDLoss", "wieght": 1}])

"""Criteria against their definitions, written the slow way."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.prune.criteria import CRITERIA, GroupWeights, keep_best, ranking_curve, removal_order

RANDOM = np.random.default_rng(0)
FILTERS = RANDOM.standard_normal((6, 10)).astype("float32")
SCALE = np.array([0.5, -0.1, 0.3, 0.0, 0.9, 0.2])


def score(name: str, **other: object) -> np.ndarray:
    result = CRITERIA.get(name)(GroupWeights([FILTERS], [SCALE], **other))  # type: ignore[arg-type]
    assert result is not None
    return result


def test_norms() -> None:
    assert score("l1_norm") == pytest.approx([np.abs(row).sum() for row in FILTERS], rel=1e-6)
    assert score("l2_norm") == pytest.approx([np.sqrt((row.astype("f8") ** 2).sum()) for row in FILTERS])


def test_fpgm_is_the_sum_of_distances() -> None:
    slow = [sum(np.linalg.norm(a.astype("f8") - b) for b in FILTERS) for a in FILTERS]
    assert score("fpgm") == pytest.approx(slow, rel=1e-6)


def test_scales() -> None:
    assert score("bn_scale") == pytest.approx(np.abs(SCALE))
    share = [sum(s * s for s in SCALE if abs(s) <= abs(own)) / (SCALE**2).sum() for own in SCALE]
    assert score("opt_slim") == pytest.approx(share)
    assert CRITERIA.get("bn_scale")(GroupWeights([FILTERS])) is None


def test_gradients() -> None:
    gradients = RANDOM.standard_normal((4, 6))
    assert score("taylor", gate_gradients=gradients) == pytest.approx(np.abs(gradients).mean(0))
    assert score("fisher", gate_gradients=gradients) == pytest.approx(0.5 * (gradients**2).mean(0))


def test_random_follows_its_seed() -> None:
    a, b, c = (score("random", rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()


def test_several_layers_count_alike() -> None:
    wide = GroupWeights([FILTERS, 1000 * FILTERS[::-1]])
    result = CRITERIA.get("l1_norm")(wide)
    assert result is not None and result == pytest.approx(result[::-1])


def test_unknown_name_has_a_remedy() -> None:
    with pytest.raises(UserError, match="l1_norm"):
        CRITERIA.get("l1norm")


def test_keep_best_and_ranking() -> None:
    scores = np.array([3.0, 1.0, 2.0, 1.0])
    assert keep_best(scores, 3).tolist() == [0, 1, 2]  # among equals the first stays
    assert removal_order(scores).tolist() == [3, 1, 2, 0]  # what stays of it is what keep_best keeps
    assert ranking_curve(scores).tolist() == [7.0, 4.0, 2.0, 1.0, 0.0]

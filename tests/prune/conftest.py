"""What several tests of pruning begin with."""

from __future__ import annotations

from typing import Any

import paddle
import pytest
from prune.matrix import captured

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.models.zoo import build
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.ranking import ranking_curves, scores


@pytest.fixture(scope="module")
def case() -> Any:
    """Groups of Fast-SCNN without its auxiliary head, curves of a ranking, and the importance that they are of."""
    paddle.seed(0)
    groups = find_groups(captured(build("fast_scnn", 5)), 64, lambda outputs: outputs[0])
    importance = scores(groups, "l1_norm")
    return groups, ranking_curves(groups, importance, "l1_norm"), importance

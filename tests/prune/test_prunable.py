"""The published table of what can be pruned is what the code finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from prune.test_models import FAST, MODELS, PEERS, VISION, model_of

ROOT = Path(__file__).resolve().parents[2]
TOKENS = {"segformer_b0", "segformer_b1", "segformer_b2"}
"""No convolutional networks: most of their work is in linear layers."""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("prunable", ROOT / "benchmarks" / "prunable.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["prunable"] = module
    spec.loader.exec_module(module)
    return module


def published(script: Any) -> dict[str, list[str]]:
    rows = [line.split("|")[1:-1] for line in script.DOCUMENT.read_text(encoding="utf-8").splitlines()]
    return {cells[0].strip(): [cell.strip() for cell in cells] for cells in rows if len(cells) == 8}


def test_every_model_has_its_row(script: Any) -> None:
    assert set(MODELS) <= set(published(script))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[*([] if n in FAST else [pytest.mark.slow]), *([pytest.mark.peer] if n in PEERS else [])])
        for n in MODELS
    ],
)
def test_the_row_is_right(script: Any, name: str) -> None:
    row = script.row_of(name, model_of(name))
    computed = [cell.strip() for cell in row.line().split("|")[1:-1]]
    seconds = 5
    told = published(script)[name]
    assert computed[:seconds] + computed[seconds + 1 :] == told[:seconds] + told[seconds + 1 :]
    if name not in VISION | TOKENS:
        assert row.share >= 0.95

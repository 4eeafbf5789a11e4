"""train.py with one more model, whose BatchNorm is frozen: what data-parallel training is compared on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddle

from paddleseg_slim.cli import runner
from paddleseg_slim.registry import MODELS


@MODELS.register()
class FrozenNet(paddle.nn.Layer):
    """Two convolutions with a BatchNorm between them that uses its running statistics and does not learn."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = paddle.nn.Conv2D(3, 8, 3, padding=1)
        self.norm = paddle.nn.BatchNorm2D(8, use_global_stats=True, weight_attr=False, bias_attr=False)
        self.head = paddle.nn.Conv2D(8, num_classes, 1)

    def forward(self, x: Any) -> list[Any]:
        return [self.head(paddle.nn.functional.relu(self.norm(self.stem(x))))]


if __name__ == "__main__":
    sys.exit(runner.main("train"))

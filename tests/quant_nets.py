"""A small net with everything that placement decides about, and images for it."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.graph import GraphLayer, capture


def conv(inside: int, outside: int, **options: int) -> nn.Layer:
    """Convolution, normalisation, ReLU."""
    options = {"padding": 1, **options}
    return nn.Sequential(nn.Conv2D(inside, outside, 3, bias_attr=False, **options), nn.BatchNorm2D(outside), nn.ReLU())


class SmallNet(nn.Layer):
    """Residual addition, depthwise convolution, concat, max pooling, resize, linear layer at the end or logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.branch = conv(16, 16)
        self.project = nn.Sequential(nn.Conv2D(16, 16, 1), nn.BatchNorm2D(16))
        self.depthwise = conv(16, 16, groups=16)
        self.pool = nn.MaxPool2D(2)
        self.deep = conv(16, 16)
        self.fuse = conv(32, 24)
        self.head = nn.Conv2D(24, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits ``[N, 4, H, W]``."""
        size = x.shape[2:]
        x = self.stem(x)
        x = F.relu(self.project(self.branch(x)) + x)
        low = self.depthwise(x)
        deep = F.interpolate(self.deep(self.pool(x)), scale_factor=2, mode="nearest")
        logits = self.head(self.fuse(paddle.concat([low, deep], axis=1)))
        return F.interpolate(logits, size, mode="bilinear")


SHAPE = (1, 3, 32, 32)


def images(count: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth random images, float32 ``[N, 3, 32, 32]``."""
    rough = np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype("float32")
    return np.repeat(np.repeat(rough, 4, axis=2), 4, axis=3)


def small_model(seed: int = 0) -> GraphLayer:
    """The net with statistics of real size, captured, in eval mode."""
    paddle.seed(seed)
    net = SmallNet()
    net.train()
    with paddle.no_grad():
        for _ in range(20):
            net(paddle.to_tensor(images()))
    net.eval()
    layer = capture(net, [paddle.static.InputSpec([None, 3, None, None], "float32", "x")], fixed_size=(32, 32))
    layer.eval()
    return layer

"""Which Paddle is accepted, and how ops are called."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from graph_nets import image
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture
from paddleseg_slim.graph.dispatch import declared_arguments


@pytest.mark.parametrize("version", ["3.1.1", "3.2.2", "3.3.1", "3.3.9", "0.0.0"])
def test_supported(version: str) -> None:
    compat.check_version(version)


@pytest.mark.parametrize("version", ["2.6.2", "3.0.0", "3.1.0", "3.4.0", "4.0.0"])
def test_unsupported(version: str) -> None:
    with pytest.raises(UserError, match="not supported"):
        compat.check_version(version)


def test_without_paddle_there_is_one_clear_sentence() -> None:
    code = "import sys; sys.modules['paddle'] = None\nimport paddleseg_slim.graph"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert "UserError: Paddle is not installed." in result.stderr


def test_kinds_of_arguments_come_from_paddle() -> None:
    assert dict(declared_arguments("slice") or ())["starts"] == "ints"
    assert [name for name, _ in declared_arguments("uniform") or ()][:4] == ["shape", "dtype", "min", "max"]
    assert dict(declared_arguments("concat") or ()) == {"x": "tensor", "axis": "scalar"}
    assert [name for name, _ in declared_arguments("auc") or ()][-2:] == ["num_thresholds", "slide_steps"]
    assert declared_arguments("no_such_op") is None


CALLS: dict[str, Any] = {
    "conv2d_transpose": lambda x: F.conv2d_transpose(x, paddle.ones([3, 2, 3, 3]), stride=2, output_padding=1),
    "depthwise_transpose": lambda x: F.conv2d_transpose(x, paddle.ones([3, 1, 2, 2]), stride=2, groups=3),
    "split_with_num": lambda x: paddle.concat(paddle.split(x, 2, axis=2)[::-1], axis=3),
    "split": lambda x: paddle.split(x, [10, -1], axis=2)[1],
    "strided_slice": lambda x: x[:, :, ::2, 1:-1:3],
    "slice_of_shape": lambda x: x[:, :, : x.shape[2] // 2],
    "pad": lambda x: F.pad(x, [0, 0, 1, 1, 2, 0, 0, 1], value=0.5),
    "pad3d": lambda x: F.pad(x, [1, 2, 3, 4], mode="replicate"),
    "argmin": lambda x: paddle.argmin(x, axis=-1, keepdim=True),
    "flat_argmax": lambda x: paddle.argmax(x),
    "topk": lambda x: paddle.topk(x, 2, axis=1)[1],
    "expand": lambda x: x.mean([2, 3], keepdim=True).expand([-1, -1, x.shape[3], 4]),
    "tile": lambda x: paddle.tile(x.sum(-1, keepdim=True), [1, 1, 1, 3]),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "unfold": lambda x: F.unfold(x, 3, paddings=1),
    "grid": lambda x: F.grid_sample(x, F.affine_grid(paddle.eye(2, 3).expand([x.shape[0], 2, 3]), x.shape)),
    "positions": lambda x: x + paddle.arange(x.shape[3], dtype="float32"),
    "ones": lambda x: x * paddle.ones([1, 1, x.shape[2], 1]),
    "full_like": lambda x: paddle.full_like(x, 3.0) - x,
    "where": lambda x: paddle.where(x > 0, x, paddle.zeros_like(x)),
    "one_hot": lambda x: F.one_hot(paddle.argmax(x, axis=1), 3),
    "norms": lambda x: F.normalize(x, axis=1) + F.instance_norm(x),
    "clip": lambda x: paddle.clip(x, -0.5, 0.5) + F.leaky_relu(x, 0.1) + F.swish(x) + F.hardsigmoid(x),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest") * 2,
    "bicubic": lambda x: F.interpolate(x, size=[20, 30], mode="bicubic", align_corners=True),
    "einsum": lambda x: paddle.einsum("nchw,ncij->nhi", x, x[:, :, :4, :4]),
    "cumsum": lambda x: paddle.cumsum(x, axis=2).flip([3]).roll(1, 2),
    "gather": lambda x: paddle.gather(x, paddle.to_tensor([2, 0]), axis=1),
    "stack": lambda x: paddle.stack([x, x * 2], axis=1).unbind(2)[1].squeeze(1),
    "logsumexp": lambda x: paddle.logsumexp(x, axis=[1, 2]) + paddle.prod(x[:, :, 0], axis=1) + x.std([1, 2]),
    "mean_of_ratio": lambda x: x.sum([2, 3]) / (x.shape[2] * x.shape[3]),
    "ceil_of_shape": lambda x: F.pad(x, [0, 0, 0, math.ceil(x.shape[2] / 7) * 7 - x.shape[2]]),
    "host_numbers": lambda x: x * (x.shape[2] ** 0.5) + max(x.shape[3] // 3, 2) + min(x.shape[2] % 7, 5),
    "meshgrid": lambda x: sum(paddle.meshgrid(paddle.arange(4), paddle.arange(6))).astype("float32") * x.mean(),
}


class Call(nn.Layer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = CALLS[name]

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.parametrize("name", CALLS)
def test_ops_run_as_in_the_layer(name: str) -> None:
    layer = Call(name)
    graph = capture(layer, [InputSpec([None, 3, None, None], "float32", "x")], verify=False)
    graph.eval()
    for size in ((16, 24), (32, 20)):
        x = image(2, *size)
        np.testing.assert_allclose(graph(x).numpy(), layer(x).numpy(), rtol=1e-6, atol=1e-6)

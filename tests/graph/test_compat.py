"""Which Paddle is accepted, and how ops are called."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from graph_nets import CALLS, Call, image
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


@pytest.mark.parametrize("name", CALLS)
def test_ops_run_as_in_the_layer(name: str) -> None:
    layer = Call(name)
    graph = capture(layer, [InputSpec([None, 3, None, None], "float32", "x")], verify=False)
    graph.eval()
    for size in ((16, 24), (32, 20)):
        x = image(2, *size)
        np.testing.assert_allclose(graph(x).numpy(), layer(x).numpy(), rtol=1e-6, atol=1e-6)

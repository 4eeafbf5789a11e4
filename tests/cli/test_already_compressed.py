"""Failure mode B19: a quantized model is not quantized or pruned again, and nothing is begun."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import tiny

from paddleseg_slim.cli import main as cli
from paddleseg_slim.config import load_config
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.graph import capture, save
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize
from paddleseg_slim.tasks import build_task


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A config and a model of it in int8."""
    folder = tmp_path_factory.mktemp("int8")
    config = tiny.write_config(folder)
    task = build_task(load_config(config))
    paddle.seed(0)
    model = capture(task.build_model(), task.input_spec(), verify=False, fixed_size=(32, 32))
    model.eval()
    images = np.random.default_rng(0).normal(size=(2, 1, 3, 32, 32)).astype("float32")
    made, _ = post_quantize(model, images, QuantSettings(), executor("onnxruntime"), (1, 3, 32, 32))
    return config, save(made, folder / "graph")


@pytest.mark.parametrize(
    "command",
    [
        ("post_quant",),
        ("quant", "--retraining_iters", "2"),
        ("prune", "--retraining_iters", "2", "--pruning_ratio", "0.3", "--sensitivity", "none"),
    ],
    ids=lambda command: command[0],
)
def test_it_is_refused_with_a_remedy(command, quantized, tmp_path, capsys):
    config, graph = quantized
    flags = ["--config", str(config), "--model_path", str(graph), "--save_dir", str(tmp_path / "out"), "--threads", "1"]
    assert cli.main([*command, *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 2 and "quantized already" in error[0], error
    assert not any((tmp_path / "out").rglob("*"))

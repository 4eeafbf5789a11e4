"""Peak memory of a run is not above that of the layer, by the statistics of Paddle's CPU allocator."""

from __future__ import annotations

import gc
from typing import Any

import paddle
import pytest
from graph.parity import tensors
from graph_nets import SPEC, TINY, image, seeded
from paddle.base import core

from paddleseg_slim.graph import capture
from paddleseg_slim.models.zoo import build

MODELS = {**{name: (factory, 128) for name, factory in TINY.items()}, "fast_scnn": (lambda: build("fast_scnn", 5), 256)}


def peak_bytes(model: Any, x: Any) -> int:
    for _ in range(2):  # the second run has everything that is made once
        gc.collect()
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        held = core.host_memory_stat_current_value("Allocated", 0)
        outputs = model(x)
        if model.training:
            sum(out.astype("float32").mean() for out in tensors(outputs) if not out.stop_gradient).backward()
            model.clear_gradients()
        del outputs
    return int(core.host_memory_stat_peak_value("Allocated", 0) - held)


@pytest.mark.parametrize("name", MODELS)
def test_peak_is_not_above_eager(name: str) -> None:
    factory, size = MODELS[name]
    net = seeded(factory)
    graph = capture(net, SPEC, verify=False)
    for training in (False, True):
        for model in (net, graph):
            model.train() if training else model.eval()
        with paddle.set_grad_enabled(training):
            eager, captured = (peak_bytes(model, image(2, size, size)) for model in (net, graph))
        assert captured <= eager + 4096, (training, captured / eager)  # a few integers

"""Comparing a captured model with its layer over steps of training and an evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_slim.graph import flatten


def tensors(structure: Any) -> list[Any]:
    return [leaf for leaf in flatten(structure) if isinstance(leaf, paddle.Tensor)]


def run_both(
    net: nn.Layer, graph: Any, inputs: list[Any], steps: int, rate: float = 0.01
) -> list[list[list[np.ndarray]]]:
    """Outputs, gradients and state of `steps` SGD steps, then of evaluation, from the same start, by each."""
    start = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    results = []
    for model in (net, graph):
        net.set_state_dict(start)
        paddle.seed(7)
        optimizer = paddle.optimizer.Momentum(rate, parameters=model.parameters())
        seen: list[list[np.ndarray]] = []
        model.train()
        for _ in range(steps):
            outputs = tensors(model(*inputs))
            sum(out.square().mean() for out in outputs if not out.stop_gradient).backward()
            gradients = {p.name: p.grad.numpy() for p in net.parameters() if p.grad is not None}
            seen.append([out.numpy() for out in outputs] + [gradients[name] for name in sorted(gradients)])
            optimizer.step()
            optimizer.clear_grad()
        model.eval()
        with paddle.no_grad():
            seen.append([out.numpy() for out in tensors(model(*inputs))])
        seen.append([tensor.numpy().copy() for tensor in net.state_dict().values()])
        results.append(seen)
    net.set_state_dict(start)
    return results


def assert_same(net: nn.Layer, graph: Any, inputs: list[Any], steps: int = 2, rate: float = 0.01) -> None:
    expected, got = run_both(net, graph, inputs, steps, rate)
    for first, second in zip(expected, got):
        assert len(first) == len(second)
        for a, b in zip(first, second):  # the gradient of a bias is a sum over all pixels, taken in another order
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=5e-6 * max(1.0, float(np.abs(a).max())))

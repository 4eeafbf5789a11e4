"""Models that compute in NHWC inside, while all around them stays NCHW."""

from __future__ import annotations

import inspect
from typing import Any

import paddle

from paddleseg_slim.config import ComponentSpec
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import BACKBONES, MODELS, Registry


def channels_last(spec: ComponentSpec) -> ComponentSpec:
    """The section ``model`` with ``data_format: NHWC`` for the model and its backbone.

    Raises:
        UserError: one of them lacks that layout.
    """
    backbone = spec.args.get("backbone")
    changed = {"backbone": _with_layout(backbone, BACKBONES)} if isinstance(backbone, ComponentSpec) else {}
    return _with_layout(spec, MODELS).with_args(**changed)


def _with_layout(spec: ComponentSpec, registry: Registry) -> ComponentSpec:
    parameters = inspect.signature(registry.get(spec.type)).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "data_format" not in parameters and not takes_any:
        raise UserError(f"--data_format NHWC: {spec.type} has NCHW only.", "Leave --data_format out.")
    return spec.with_args(data_format="NHWC")


def transpose_around(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """Make an NHWC model take ``[N, C, H, W]`` and give outputs in that layout; its parameters stay as they are."""

    def before(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].transpose([0, 2, 3, 1]), *inputs[1:])

    def after(layer: Any, inputs: Any, outputs: Any) -> Any:
        if isinstance(outputs, (list, tuple)):
            return [output.transpose([0, 3, 1, 2]) for output in outputs]
        return outputs.transpose([0, 3, 1, 2])

    model.register_forward_pre_hook(before)
    model.register_forward_post_hook(after)
    return model

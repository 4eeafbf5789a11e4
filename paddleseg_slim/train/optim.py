"""Optimizers and learning-rate schedules by PaddleSeg's names and arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle.optimizer import lr as paddle_lr
from paddle.optimizer.lr import LRScheduler as Schedule

from paddleseg_slim.config import ComponentSpec, build
from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.registry import OPTIMIZERS, SCHEDULERS, Registry

_CLIPS = Registry("gradient clip")
for _name in ("ClipGradByValue", "ClipGradByNorm", "ClipGradByGlobalNorm"):
    _CLIPS.register(_name)(getattr(paddle.nn, _name))

_GROUP_KEYS = ("name", "lr_mult", "weight_decay_mult")

for _name in (
    "PolynomialDecay",
    "CosineAnnealingDecay",
    "PiecewiseDecay",
    "StepDecay",
    "MultiStepDecay",
    "ExponentialDecay",
    "NaturalExpDecay",
    "InverseTimeDecay",
    "NoamDecay",
    "OneCycleLR",
    "CyclicLR",
):
    SCHEDULERS.register(_name)(getattr(paddle_lr, _name))


@SCHEDULERS.register("ConstantLR")
def constant(learning_rate: float) -> Schedule:
    """The same learning rate at every step."""
    return paddle_lr.LambdaDecay(learning_rate, lambda step: 1.0)


def build_schedule(spec: ComponentSpec, iters: int) -> Schedule:
    """Build the schedule of the section ``lr_scheduler``.

    As in PaddleSeg, ``warmup_iters`` with ``warmup_start_lr`` puts a linear warm-up in front, and the decay steps of
    PolynomialDecay (here also the period of CosineAnnealingDecay) are what remains of ``iters``.

    Args:
        spec: the section.
        iters: training steps.

    Raises:
        UserError: an unknown schedule or argument, by its key path.
    """
    warmup = spec.args.get("warmup_iters") or 0
    if isinstance(warmup, bool) or not isinstance(warmup, (int, float)) or warmup < 0:
        raise UserError(f"{spec.key_path}.warmup_iters is {warmup!r}.", "It must be a whole number of 0 or more.")
    inner = spec.without("warmup_iters", "warmup_start_lr")
    length = {"PolynomialDecay": "decay_steps", "CosineAnnealingDecay": "T_max"}.get(spec.type)
    if length and inner.args.get(length) is None:
        inner = inner.with_args(**{length: max(1, iters - int(warmup))})
    _check_rate(inner)
    schedule: Schedule = build(inner, SCHEDULERS)
    if not warmup:
        return schedule
    for key in ("warmup_start_lr", "learning_rate"):
        if not isinstance(spec.args.get(key), (int, float)):
            raise UserError(f"{spec.key_path}.{key} is missing.", "A warm-up needs warmup_start_lr and learning_rate.")
    return paddle_lr.LinearWarmup(schedule, int(warmup), spec.args["warmup_start_lr"], spec.args["learning_rate"])


def _check_rate(spec: ComponentSpec) -> None:
    rate = spec.args.get("learning_rate")
    if isinstance(rate, (int, float)) and not (math.isfinite(rate) and rate > 0):
        raise UserError(f"{spec.key_path}.learning_rate is {rate}.", "It must be above 0.")


def build_optimizer(spec: ComponentSpec, schedule: Schedule | float, model: paddle.nn.Layer) -> Any:
    """Build the optimizer of the section ``optimizer`` for the trainable parameters of ``model``.

    Raises:
        UserError: an unknown optimizer or argument, by its key path, or nothing to train.
    """
    if not any(not parameter.stop_gradient for parameter in model.parameters()):
        raise UserError("The model has no trainable parameter.", "Unfreeze a part of it, or do not train it.")
    return build(spec, OPTIMIZERS, model=model, schedule=schedule)


def _clip(section: Mapping[str, Any] | None) -> Any:
    if section is None:
        return None
    arguments = {key: value for key, value in section.items() if key != "name"}
    return build(ComponentSpec(str(section.get("name")), arguments, "optimizer.grad_clip_cfg"), _CLIPS)


def _parameters(
    model: paddle.nn.Layer, groups: Sequence[Mapping[str, Any]] | None, weight_decay: float | None
) -> list[Any]:
    """The trainable parameters; with ``groups`` (``custom_cfg``) as groups, each by a part of the parameters' names."""
    trainable = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    if not groups:
        return [p for _, p in trainable]
    members: list[list[Any]] = [[] for _ in range(len(groups) + 1)]
    for index, group in enumerate(groups):
        for key in group:
            if key not in _GROUP_KEYS:
                raise UserError(f"optimizer.custom_cfg[{index}].{key}: unknown key.", nearest(str(key), _GROUP_KEYS))
        if not isinstance(group.get("name"), str):
            raise UserError(f"optimizer.custom_cfg[{index}] has no name.", "Name a part of the parameters' names.")
    for name, parameter in trainable:
        first = next((i for i, group in enumerate(groups) if group["name"] in name), len(groups))
        members[first].append(parameter)
    result = []
    for index, (group, parameters) in enumerate(zip(groups, members)):
        if not parameters:
            raise UserError(
                f"optimizer.custom_cfg[{index}]: no trainable parameter has {group['name']!r} in its name.",
                nearest(group["name"], {name.split(".")[0] for name, _ in trainable}),
            )
        entry: dict[str, Any] = {"params": parameters, "learning_rate": float(group.get("lr_mult", 1.0))}
        if weight_decay is not None and "weight_decay_mult" in group:
            entry["weight_decay"] = weight_decay * float(group["weight_decay_mult"])
        result.append(entry)
    return [*result, {"params": members[-1]}] if members[-1] else result


@OPTIMIZERS.register("SGD", "sgd")
def sgd(
    model: paddle.nn.Layer,
    schedule: Schedule,
    weight_decay: float | None = None,
    momentum: float | None = None,
    use_nesterov: bool = False,
    grad_clip_cfg: dict[str, Any] | None = None,
    custom_cfg: list[dict[str, Any]] | None = None,
) -> Any:
    """Stochastic gradient descent; with ``momentum`` it is `momentum`, as in PaddleSeg."""
    if momentum is not None:
        return momentum_sgd(model, schedule, momentum, use_nesterov, weight_decay, grad_clip_cfg, custom_cfg)
    if use_nesterov:
        raise UserError("optimizer.use_nesterov is set without a momentum.", "Give optimizer.momentum: 0.9.")
    return paddle.optimizer.SGD(
        schedule,
        parameters=_parameters(model, custom_cfg, weight_decay),
        weight_decay=weight_decay,
        grad_clip=_clip(grad_clip_cfg),
    )


@OPTIMIZERS.register("Momentum")
def momentum_sgd(
    model: paddle.nn.Layer,
    schedule: Schedule,
    momentum: float = 0.9,
    use_nesterov: bool = False,
    weight_decay: float | None = None,
    grad_clip_cfg: dict[str, Any] | None = None,
    custom_cfg: list[dict[str, Any]] | None = None,
) -> Any:
    """Stochastic gradient descent with (Nesterov) momentum."""
    return paddle.optimizer.Momentum(
        schedule,
        momentum=momentum,
        parameters=_parameters(model, custom_cfg, weight_decay),
        use_nesterov=use_nesterov,
        weight_decay=weight_decay,
        grad_clip=_clip(grad_clip_cfg),
    )


@OPTIMIZERS.register("Adam", "adam")
def adam(
    model: paddle.nn.Layer,
    schedule: Schedule,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    lazy_mode: bool = False,
    weight_decay: float | None = None,
    grad_clip_cfg: dict[str, Any] | None = None,
    custom_cfg: list[dict[str, Any]] | None = None,
) -> Any:
    """Adam (Kingma and Ba, 2014); ``weight_decay`` is an L2 term in the gradient."""
    decayed = (weight_decay, grad_clip_cfg, custom_cfg)
    return _adaptive(paddle.optimizer.Adam, model, schedule, (beta1, beta2, epsilon), lazy_mode, *decayed)


@OPTIMIZERS.register("AdamW")
def adamw(
    model: paddle.nn.Layer,
    schedule: Schedule,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    lazy_mode: bool = False,
    grad_clip_cfg: dict[str, Any] | None = None,
    custom_cfg: list[dict[str, Any]] | None = None,
) -> Any:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017)."""
    decayed = (weight_decay, grad_clip_cfg, custom_cfg)
    return _adaptive(paddle.optimizer.AdamW, model, schedule, (beta1, beta2, epsilon), lazy_mode, *decayed)


def _adaptive(
    kind: Any,
    model: paddle.nn.Layer,
    schedule: Schedule,
    moments: tuple[float, float, float],
    lazy_mode: bool,
    weight_decay: float | None,
    grad_clip_cfg: dict[str, Any] | None,
    custom_cfg: list[dict[str, Any]] | None,
) -> Any:
    """Adam or AdamW; ``moments``: beta 1, beta 2, epsilon."""
    return kind(
        schedule,
        *moments,
        parameters=_parameters(model, custom_cfg, weight_decay),
        weight_decay=weight_decay,
        grad_clip=_clip(grad_clip_cfg),
        lazy_mode=lazy_mode,
    )

"""How a segmentation model is applied to an image: at once, in windows, at several scales, mirrored.

Semantics and argument names are PaddleSeg's (``test_config``, flags of val.py and predict.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Forward

_KEYS = ("aug_eval", "scales", "flip_horizontal", "flip_vertical", "is_slide", "crop_size", "stride", "auc_roc")


def resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing of ``[N, C, H, W]`` to ``(height, width)``, corners not aligned."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    with paddle.no_grad():
        return F.interpolate(paddle.to_tensor(values), list(size), mode="bilinear").numpy()


def restore(logits: np.ndarray, trans_info: Sequence[tuple[str, tuple[int, int]]]) -> np.ndarray:
    """Undo the changes of size that the transforms made to the image, last first.

    Args:
        logits: ``[N, C, H, W]``.
        trans_info: ``("resize" or "padding", (height, width) before it)``.
    """
    for kind, (height, width) in reversed(trans_info):
        logits = logits[:, :, :height, :width] if kind == "padding" else resize(logits, (int(height), int(width)))
    return logits


def wrap(forward: Forward, settings: Mapping[str, Any]) -> Forward:
    """Wrap ``forward`` by the settings of ``test_config``.

    Args:
        forward: images to outputs, of which the first is used.
        settings: ``aug_eval`` with ``scales``, ``flip_horizontal``, ``flip_vertical``; ``is_slide`` with
            ``crop_size`` and ``stride``, each ``(width, height)``. Values that are None count as not given.

    Returns:
        Images to a list of one array, the logits ``[N, C, H, W]`` at the size of the images.

    Raises:
        UserError: a setting contradicts the others or is missing.
    """
    given = {key: value for key, value in settings.items() if value not in (None, False)}
    for key in given:
        if key not in _KEYS:
            raise UserError(f"test_config.{key}: unknown key.", f"Known are {', '.join(_KEYS)}.")
    if given.get("is_slide"):
        forward = sliding(forward, _pair(given, "crop_size"), _pair(given, "stride"))
    elif "crop_size" in given or "stride" in given:
        raise UserError("crop_size and stride are given without is_slide.", "Add --is_slide, or leave them out.")
    augmenting = [key for key in ("flip_horizontal", "flip_vertical") if key in given]
    scales = given.get("scales", 1.0)
    scales = [float(scales)] if isinstance(scales, (int, float)) else [float(scale) for scale in scales]
    if given.get("aug_eval"):
        return augmented(forward, scales, *(key in given for key in ("flip_horizontal", "flip_vertical")))
    if augmenting or scales != [1.0]:
        raise UserError(
            f"{', '.join([*augmenting, *(['scales'] if scales != [1.0] else [])])} given without aug_eval (aug_pred).",
            "Add --aug_eval (--aug_pred for predict.py), or leave them out.",
        )
    return forward


def _pair(settings: Mapping[str, Any], key: str) -> tuple[int, int]:
    value = settings.get(key)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or min(value) < 1:
        raise UserError(f"is_slide needs {key}, two numbers above 0 (width, height); given: {value}.", f"Add --{key}.")
    return int(value[0]), int(value[1])


def _first(outputs: Any) -> np.ndarray:
    return np.asarray(outputs[0] if isinstance(outputs, (list, tuple)) else outputs)


def sliding(forward: Forward, crop_size: tuple[int, int], stride: tuple[int, int]) -> Forward:
    """Infer in windows of ``crop_size`` every ``stride`` pixels (width, height) and average where they overlap."""
    if stride[0] > crop_size[0] or stride[1] > crop_size[1]:
        raise UserError(
            f"stride {list(stride)} is larger than crop_size {list(crop_size)}: pixels would be left out.",
            "Make the stride at most the crop size.",
        )

    def starts(length: int, crop: int, step: int) -> list[int]:
        count = math.ceil(max(length - crop, 0) / step) + 1
        return [max(min(step * i, length - crop), 0) for i in range(count)]

    def slide(images: np.ndarray) -> list[np.ndarray]:
        height, width = images.shape[-2:]
        total: np.ndarray | None = None
        weight = np.zeros((1, 1, height, width), np.float32)
        for top in starts(height, crop_size[1], stride[1]):
            for left in starts(width, crop_size[0], stride[0]):
                rows, columns = slice(top, top + crop_size[1]), slice(left, left + crop_size[0])
                logits = _first(forward(np.ascontiguousarray(images[:, :, rows, columns])))
                if total is None:
                    total = np.zeros((len(images), logits.shape[1], height, width), np.float32)
                total[:, :, rows, columns] += logits
                weight[:, :, rows, columns] += 1
        assert total is not None
        return [total / weight]

    return slide


def augmented(forward: Forward, scales: Sequence[float], horizontal: bool, vertical: bool) -> Forward:
    """Average the logits over scales and mirror images."""
    if not scales or min(scales) <= 0:
        raise UserError(f"scales are {list(scales)}.", "Give one or more numbers above 0.")
    flips = [(h, v) for v in (False, *([True] if vertical else [])) for h in (False, *([True] if horizontal else []))]

    def flip(values: np.ndarray, sides: tuple[bool, bool]) -> np.ndarray:
        values = values[:, :, :, ::-1] if sides[0] else values
        return values[:, :, ::-1] if sides[1] else values

    def augment(images: np.ndarray) -> list[np.ndarray]:
        size = images.shape[-2:]
        total: Any = 0
        for scale in scales:
            scaled = resize(images, (int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)))
            for sides in flips:
                logits = flip(_first(forward(np.ascontiguousarray(flip(scaled, sides)))), sides)
                total = total + resize(np.ascontiguousarray(logits), size)
        return [total / (len(scales) * len(flips))]

    return augment

"""The transform: ``transform(sample, rng) -> sample``, and what all of them share.

A sample is a dict: ``img`` float32 ``[H, W, C]`` in 0 ... 255, ``gt_fields`` the names of the label maps ``[H, W]``
that are transformed with it, ``trans_info`` the list of changes of size. A transform puts new arrays into the dict; it
does not write into those it got. Names and arguments are PaddleSeg's.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from paddleseg_slim.errors import UserError

Sample = dict[str, Any]

INTERPOLATIONS = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}


class Transform(ABC):
    """Base of the transforms; each is a dataclass whose fields are its arguments."""

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers; what does not can stand in a ``deploy.yaml``."""
        return False

    @abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Transform the sample; random transforms draw from ``rng``."""

    def describe(self) -> dict[str, Any]:
        """The transform as PaddleSeg's YAML writes it: ``type`` and the arguments that are not None."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}  # type: ignore[arg-type]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"type": type(self).__name__, **{name: value for name, value in plain.items() if value is not None}}


class RandomTransform(Transform):
    """Base of the transforms that always draw random numbers."""

    @property
    def is_random(self) -> bool:
        """Always true."""
        return True

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Transform the sample with numbers drawn from ``rng``."""
        return self.draw(sample, need_rng(self, rng))

    @abstractmethod
    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Transform the sample with numbers drawn from ``rng``."""


def need_rng(transform: Transform, rng: np.random.Generator | None) -> np.random.Generator:
    """Return ``rng``.

    Raises:
        UserError: there is none, because a random transform is used where every run must give the same.
    """
    if rng is None:
        raise UserError(
            f"The transform {type(transform).__name__} is random and cannot be used for prediction.",
            "Take it out of the transforms of val_dataset.",
        )
    return rng


def size_pair(transform: Transform, name: str, value: Any) -> tuple[int, int]:
    """Return ``(width, height)``, both positive integers.

    Raises:
        UserError: ``value`` is no such pair.
    """
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair):
        raise UserError(
            f"{name} of {type(transform).__name__} is {value!r}.", "Give [width, height], two positive integers."
        )
    return pair[0], pair[1]


def check_range(transform: Transform, low: float, high: float, *names: str) -> None:
    """Check that arguments are numbers in ``[low, high]``.

    Raises:
        UserError: one is not; it names the argument and its value.
    """
    for name in names:
        value = getattr(transform, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise UserError(
                f"{name} of {type(transform).__name__} is {value!r}.", f"Give a number from {low:g} to {high:g}."
            )


def check_order(transform: Transform, low: str, high: str) -> None:
    """Check that the argument ``low`` is not larger than ``high``.

    Raises:
        UserError: it is.
    """
    least, most = getattr(transform, low), getattr(transform, high)
    if least > most:
        raise UserError(f"{low} of {type(transform).__name__} is {least}, above {high} {most}.", "Swap the two.")


def apply(
    sample: Sample, image: Callable[[np.ndarray], np.ndarray], label: Callable[[np.ndarray], np.ndarray]
) -> Sample:
    """Apply one function to the image and another to each label map that goes with it."""
    sample["img"] = image(sample["img"])
    for name in sample.get("gt_fields", ()):
        sample[name] = label(sample[name])
    return sample


def resize(sample: Sample, width: int, height: int, interpolation: int = cv2.INTER_LINEAR) -> Sample:
    """Resize image and label maps (these by the nearest pixel) and note the size before in ``trans_info``."""
    before = sample["img"].shape[:2]
    if before == (height, width):
        return sample
    sample.setdefault("trans_info", []).append(("resize", before))
    return apply(
        sample,
        lambda image: with_channels(cv2.resize(image, (width, height), interpolation=interpolation)),
        lambda label: cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST),
    )


def pad(sample: Sample, top: int, bottom: int, left: int, right: int, image_value: float, label_value: float) -> Sample:
    """Pad image and label maps with constants."""

    def frame(array: np.ndarray, value: float) -> np.ndarray:
        channels = array.shape[2] if array.ndim == 3 else 1
        return cv2.copyMakeBorder(array, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(value,) * channels)

    return apply(
        sample, lambda image: with_channels(frame(image, image_value)), lambda label: frame(label, label_value)
    )


def crop(sample: Sample, x: int, y: int, width: int, height: int) -> Sample:
    """Cut the same window out of image and label maps."""

    def window(array: np.ndarray) -> np.ndarray:
        return array[y : y + height, x : x + width]

    return apply(sample, window, window)


def warp(sample: Sample, matrix: np.ndarray, size: Sequence[int], image_value: float, label_value: float) -> Sample:
    """Warp image and label maps by an affine matrix ``[2, 3]`` onto a canvas of ``size`` (width, height)."""

    def warped(array: np.ndarray, flags: int, value: float) -> np.ndarray:
        border = (value,) * (array.shape[2] if array.ndim == 3 else 1)
        return cv2.warpAffine(
            array, matrix, (size[0], size[1]), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
        )

    return apply(
        sample,
        lambda image: with_channels(warped(image, cv2.INTER_LINEAR, image_value)),
        lambda label: warped(label, cv2.INTER_NEAREST, label_value),
    )


def with_channels(image: np.ndarray) -> np.ndarray:
    """Give a grey image the channel axis that OpenCV dropped: ``[H, W]`` becomes ``[H, W, 1]``."""
    return image[:, :, None] if image.ndim == 2 else image

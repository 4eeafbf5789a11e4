"""Transforms of the image's values; label maps stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_slim.data.transforms.base import RandomTransform, Sample, Transform, check_range, with_channels
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import TRANSFORMS


@TRANSFORMS.register()
@dataclass
class Normalize(Transform):
    """``(img / 255 - mean) / std``.

    Args:
        mean: one number, or one a channel.
        std: likewise, not zero.
    """

    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            values = tuple(values) if isinstance(values, (list, tuple)) else ()
            numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
            if len(values) not in (1, 3) or not numbers:
                raise UserError(f"{name} of Normalize is {getattr(self, name)!r}.", "Give a list of 1 or 3 numbers.")
            setattr(self, name, values)
        if 0 in self.std:
            raise UserError(f"std of Normalize is {list(self.std)}.", "It divides: give numbers other than 0.")
        std = np.asarray(self.std, np.float64)
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._shift = (np.asarray(self.mean, np.float64) / std).astype(np.float32)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Normalize ``img``."""
        image = sample["img"] * self._scale
        image -= self._shift
        sample["img"] = image
        return sample


@TRANSFORMS.register()
@dataclass
class RandomNoise(RandomTransform):
    """Add Gaussian noise.

    Args:
        prob: how often.
        max_sigma: the largest standard deviation, in levels of 255.
    """

    prob: float = 0.5
    max_sigma: float = 10.0

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "prob")
        check_range(self, 0, 255, "max_sigma")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Add noise to ``img`` in ``prob`` of the cases."""
        if rng.random() < self.prob:
            sigma = np.float32(rng.random() * self.max_sigma)
            noise = rng.standard_normal(sample["img"].shape, np.float32)
            sample["img"] = np.clip(sample["img"] + noise * sigma, 0, 255)
        return sample


_BLURS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "gaussian": lambda image, side: cv2.GaussianBlur(image, (side, side), 0),
    "median": lambda image, side: cv2.medianBlur(np.rint(image).astype(np.uint8), side).astype(np.float32),
    "blur": lambda image, side: cv2.blur(image, (side, side)),
}


@TRANSFORMS.register()
@dataclass
class RandomBlur(RandomTransform):
    """Blur with a kernel of 3 to 9 pixels.

    Args:
        prob: how often.
        blur_type: ``gaussian``, ``median``, ``blur`` (the mean) or ``random``.
    """

    prob: float = 0.1
    blur_type: str = "gaussian"

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "prob")
        if self.blur_type not in (*_BLURS, "random"):
            raise UserError(
                f"blur_type of RandomBlur is {self.blur_type!r}.", f"Choose one of {', '.join(_BLURS)}, random."
            )

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Blur ``img`` in ``prob`` of the cases."""
        if rng.random() < self.prob:
            side = int(rng.integers(3, 10)) | 1
            kind = list(_BLURS)[rng.integers(len(_BLURS))] if self.blur_type == "random" else self.blur_type
            sample["img"] = with_channels(_BLURS[kind](sample["img"], side))
        return sample


def _grey(image: np.ndarray) -> np.ndarray:
    """Luma of an image ``[H, W, C]`` by ITU-R 601, ``[H, W, 1]``."""
    return with_channels(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if image.shape[2] == 3 else image


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return image * np.float32(factor)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = np.float32(np.rint(_grey(image).mean(dtype=np.float64)))
    return (image - mean) * np.float32(factor) + mean


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    grey = _grey(image)
    return (image - grey) * np.float32(factor) + grey


def _sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = with_channels(cv2.filter2D(image, -1, kernel / 13, borderType=cv2.BORDER_REFLECT_101))
    return (image - smooth) * np.float32(factor) + smooth


def _hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by ``turn`` / 256 of the colour circle."""
    pixels = cv2.cvtColor(np.rint(image).astype(np.uint8), cv2.COLOR_RGB2HSV_FULL)
    pixels[:, :, 0] += np.uint8(round(turn) % 256)
    return cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB_FULL).astype(np.float32)


_DISTORTIONS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], float]] = {
    "brightness": (_brightness, 1.0),  # the function, and the middle of its range
    "contrast": (_contrast, 1.0),
    "saturation": (_saturation, 1.0),
    "sharpness": (_sharpness, 1.0),
    "hue": (_hue, 0.0),
}


@TRANSFORMS.register()
@dataclass
class RandomDistort(RandomTransform):
    """Change brightness, contrast, saturation, sharpness and hue, in random order.

    A factor is drawn from ``[1 - range, 1 + range]``, a turn of the hue from ``[-hue_range, hue_range]`` in 1/256 of
    the circle; each is done with its probability. As Pillow's ``ImageEnhance`` does them, without rounding between.
    """

    brightness_range: float = 0.5
    brightness_prob: float = 0.5
    contrast_range: float = 0.5
    contrast_prob: float = 0.5
    saturation_range: float = 0.5
    saturation_prob: float = 0.5
    hue_range: float = 18
    hue_prob: float = 0.5
    sharpness_range: float = 0.5
    sharpness_prob: float = 0

    def __post_init__(self) -> None:
        check_range(self, 0, 1, *(f"{name}_prob" for name in _DISTORTIONS))
        check_range(self, 0, 255, *(f"{name}_range" for name in _DISTORTIONS))

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Distort ``img``."""
        names = list(_DISTORTIONS)
        for at in rng.permutation(len(names)):
            function, middle = _DISTORTIONS[names[at]]
            reach = getattr(self, f"{names[at]}_range")
            chance, amount = rng.random(), rng.uniform(middle - reach, middle + reach)
            if chance >= getattr(self, f"{names[at]}_prob"):
                continue
            if names[at] == "hue" and sample["img"].shape[2] != 3:  # grey has no hue
                continue
            image = function(sample["img"], amount)
            sample["img"] = np.clip(image, 0, 255, out=image)
        return sample

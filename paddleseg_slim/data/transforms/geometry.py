"""Flips, rotations and other warps, always of image and label maps together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_slim.data.transforms.base import (
    RandomTransform,
    Sample,
    apply,
    check_order,
    check_range,
    crop,
    resize,
    size_pair,
    warp,
    with_channels,
)
from paddleseg_slim.registry import TRANSFORMS


@TRANSFORMS.register()
@dataclass
class RandomHorizontalFlip(RandomTransform):
    """Swap left and right.

    Args:
        prob: how often.
    """

    prob: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "prob")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Flip in ``prob`` of the cases."""
        if rng.random() < self.prob:
            apply(sample, lambda image: with_channels(cv2.flip(image, 1)), lambda label: cv2.flip(label, 1))
        return sample


@TRANSFORMS.register()
@dataclass
class RandomVerticalFlip(RandomTransform):
    """Swap top and bottom.

    Args:
        prob: how often.
    """

    prob: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "prob")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Flip in ``prob`` of the cases."""
        if rng.random() < self.prob:
            apply(sample, lambda image: with_channels(cv2.flip(image, 0)), lambda label: cv2.flip(label, 0))
        return sample


@TRANSFORMS.register()
@dataclass
class RandomRotation(RandomTransform):
    """Rotate by up to ``max_rotation`` degrees; the canvas grows so that nothing is cut off.

    Args:
        max_rotation: degrees, to either side.
        im_padding_value: of the image's new corners.
        label_padding_value: of the label maps' new corners.
    """

    max_rotation: float = 15
    im_padding_value: float = 127.5
    label_padding_value: int = 255

    def __post_init__(self) -> None:
        check_range(self, 0, 180, "max_rotation")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Rotate by a random angle."""
        if self.max_rotation == 0:
            return sample
        height, width = sample["img"].shape[:2]
        centre = (width // 2, height // 2)
        matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-self.max_rotation, self.max_rotation), 1.0)
        cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
        size = (int(height * sine + width * cosine), int(height * cosine + width * sine))
        matrix[:, 2] += size[0] / 2 - centre[0], size[1] / 2 - centre[1]
        return warp(sample, matrix, size, self.im_padding_value, self.label_padding_value)


@TRANSFORMS.register()
@dataclass
class RandomScaleAspect(RandomTransform):
    """Cut out a window of random area and aspect and bring it back to the size of the image.

    Args:
        min_scale: the least area of the window, of that of the image; 0 does nothing.
        aspect_ratio: the least aspect ratio; 0 does nothing.
    """

    min_scale: float = 0.5
    aspect_ratio: float = 0.33

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "min_scale", "aspect_ratio")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Take the first of ten random windows that fits into the image."""
        if self.min_scale == 0 or self.aspect_ratio == 0:
            return sample
        height, width = sample["img"].shape[:2]
        for _ in range(10):
            area = height * width * rng.uniform(self.min_scale, 1.0)
            aspect = rng.uniform(self.aspect_ratio, 1 / self.aspect_ratio)
            sides = [max(int(math.sqrt(area * aspect)), 1), max(int(math.sqrt(area / aspect)), 1)]
            w, h = sides if rng.random() < 0.5 else sides[::-1]
            if h < height and w < width:
                crop(sample, int(rng.integers(width - w)), int(rng.integers(height - h)), w, h)
                return resize(sample, width, height)
        return sample


@TRANSFORMS.register()
@dataclass
class RandomAffine(RandomTransform):
    """Rotate, scale and shift the image onto a canvas of ``size``.

    Args:
        size: width and height of the canvas.
        translation_offset: the largest shift, in pixels.
        max_rotation: degrees, to either side.
        min_scale_factor: of the scale at which the image fills the canvas.
        max_scale_factor: likewise.
        im_padding_value: of what lies outside of the image.
        label_padding_value: of what lies outside of the label maps.
    """

    size: tuple[int, int] = (224, 224)
    translation_offset: float = 0
    max_rotation: float = 15
    min_scale_factor: float = 0.75
    max_scale_factor: float = 1.25
    im_padding_value: float = 128
    label_padding_value: int = 255

    def __post_init__(self) -> None:
        self.size = size_pair(self, "size", self.size)
        check_range(self, 0, 180, "max_rotation")
        check_range(self, 1e-3, 1e3, "min_scale_factor", "max_scale_factor")
        check_order(self, "min_scale_factor", "max_scale_factor")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Warp by a random affine map."""
        height, width = sample["img"].shape[:2]
        shift = rng.uniform(-1, 1, 2) * self.translation_offset
        angle = math.radians(rng.uniform(-self.max_rotation, self.max_rotation))
        fill = (self.size[0] / max(width - 1, 1) + self.size[1] / max(height - 1, 1)) / 2
        scale = rng.uniform(self.min_scale_factor, self.max_scale_factor) * fill
        turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        target = np.asarray(self.size) / 2
        # PaddleSeg moves the image to the middle of the canvas and then turns it about (middle + shift)
        offset = turn @ (target - middle) + (np.eye(2) - turn) @ (target + shift)
        matrix = np.column_stack([turn, offset])
        return warp(sample, matrix, self.size, self.im_padding_value, self.label_padding_value)

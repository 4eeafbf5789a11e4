"""Crops and paddings of image and label maps."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_slim.data.transforms.base import (
    RandomTransform,
    Sample,
    Transform,
    check_range,
    crop,
    pad,
    resize,
    size_pair,
)
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import TRANSFORMS


@TRANSFORMS.register()
@dataclass
class Padding(Transform):
    """Pad at the bottom and the right to a fixed size.

    Args:
        target_size: width and height.
        im_padding_value: of the image.
        label_padding_value: of the label maps.
    """

    target_size: tuple[int, int]
    im_padding_value: float = 127.5
    label_padding_value: int = 255

    def __post_init__(self) -> None:
        self.target_size = size_pair(self, "target_size", self.target_size)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Pad.

        Raises:
            UserError: the image is larger than ``target_size``.
        """
        height, width = sample["img"].shape[:2]
        more_w, more_h = self.target_size[0] - width, self.target_size[1] - height
        if more_w < 0 or more_h < 0:
            raise UserError(
                f"Padding to {list(self.target_size)}, but the image is {width}x{height}.",
                "Give a larger target_size [width, height], or a resize before it.",
            )
        sample.setdefault("trans_info", []).append(("padding", (height, width)))
        return pad(sample, 0, more_h, 0, more_w, self.im_padding_value, self.label_padding_value)


@TRANSFORMS.register()
@dataclass
class PaddingByAspectRatio(Transform):
    """Pad at the bottom or the right to an aspect ratio.

    Args:
        aspect_ratio: width / height.
        im_padding_value: of the image.
        label_padding_value: of the label maps.
    """

    aspect_ratio: float = 1
    im_padding_value: float = 127.5
    label_padding_value: int = 255

    def __post_init__(self) -> None:
        check_range(self, 1e-3, 1e3, "aspect_ratio")

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Pad the side that is too short."""
        height, width = sample["img"].shape[:2]
        if width == height * self.aspect_ratio:
            return sample
        if width > height * self.aspect_ratio:
            size = (width, max(int(width / self.aspect_ratio), height))
        else:
            size = (max(int(height * self.aspect_ratio), width), height)
        return Padding(size, self.im_padding_value, self.label_padding_value)(sample)


@TRANSFORMS.register()
@dataclass
class ScalePadding(Transform):
    """Pad to a square with the image in the middle, then resize (cubic; label maps by the nearest pixel).

    Args:
        target_size: width and height.
        im_padding_value: of the image.
        label_padding_value: of the label maps.
    """

    target_size: tuple[int, int] = (512, 512)
    im_padding_value: float = 127.5
    label_padding_value: int = 255

    def __post_init__(self) -> None:
        self.target_size = size_pair(self, "target_size", self.target_size)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Pad and resize; the values of the image become whole numbers from 0 to 255, as in PaddleSeg."""
        height, width = sample["img"].shape[:2]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        pad(
            sample,
            top,
            side - height - top,
            left,
            side - width - left,
            self.im_padding_value,
            self.label_padding_value,
        )
        sample["img"] = sample["img"].astype(np.uint8)
        resize(sample, self.target_size[0], self.target_size[1], cv2.INTER_CUBIC)
        sample["img"] = sample["img"].astype(np.float32)
        return sample


@TRANSFORMS.register()
@dataclass
class RandomPaddingCrop(RandomTransform):
    """Cut out a random window of fixed size; images that are smaller are padded at the bottom and the right first.

    Args:
        crop_size: width and height.
        im_padding_value: of the image.
        label_padding_value: of the label maps.
        category_max_ratio: below 1, windows are drawn again while one class covers more than this share of the label.
        ignore_index: label that does not count for that share.
        loop_times: how often at most a window is drawn again.
    """

    crop_size: tuple[int, int] = (512, 512)
    im_padding_value: float = 127.5
    label_padding_value: int = 255
    category_max_ratio: float = 1.0
    ignore_index: int = 255
    loop_times: int = 10

    def __post_init__(self) -> None:
        self.crop_size = size_pair(self, "crop_size", self.crop_size)
        check_range(self, 1e-6, float("inf"), "category_max_ratio")
        check_range(self, 1, 1e6, "loop_times")

    def _is_mixed(self, label: np.ndarray) -> bool:
        values, counts = np.unique(label, return_counts=True)
        counts = counts[values != self.ignore_index]
        return len(counts) > 1 and counts.max() < self.category_max_ratio * counts.sum()

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Pad and cut out a window."""
        width, height = self.crop_size
        more_h = max(height - sample["img"].shape[0], 0)
        more_w = max(width - sample["img"].shape[1], 0)
        if more_h or more_w:
            pad(sample, 0, more_h, 0, more_w, self.im_padding_value, self.label_padding_value)
        free_h, free_w = sample["img"].shape[0] - height, sample["img"].shape[1] - width
        label = sample["label"] if "label" in sample.get("gt_fields", ()) else None
        for _ in range(int(self.loop_times)):
            x, y = int(rng.integers(free_w + 1)), int(rng.integers(free_h + 1))
            if self.category_max_ratio >= 1 or label is None:
                break
            if self._is_mixed(label[y : y + height, x : x + width]):
                break
        return crop(sample, x, y, width, height)


@TRANSFORMS.register()
@dataclass
class RandomCenterCrop(RandomTransform):
    """Cut off a random amount around a random centre.

    Args:
        retain_ratio: the least share of width and of height that stays.
    """

    retain_ratio: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        ratio = tuple(self.retain_ratio) if isinstance(self.retain_ratio, (list, tuple)) else ()
        if len(ratio) != 2 or not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in ratio):
            raise UserError(
                f"retain_ratio of RandomCenterCrop is {self.retain_ratio!r}.", "Give two numbers from 0 to 1."
            )
        self.retain_ratio = (ratio[0], ratio[1])

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Cut off."""
        window = []
        for side, ratio in zip(sample["img"].shape[1::-1], self.retain_ratio):
            away = int(rng.integers(max(int(side * (1 - ratio)), 1)))
            away = min(away, side - 1)
            window.append((int(rng.integers(max(away, 1))), side - away))
        (x, width), (y, height) = window
        return crop(sample, x, y, width, height)

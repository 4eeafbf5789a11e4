"""Transforms of the size of image and label maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddleseg_slim.data.transforms.base import (
    INTERPOLATIONS,
    RandomTransform,
    Sample,
    Transform,
    check_order,
    check_range,
    need_rng,
    resize,
    size_pair,
)
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import TRANSFORMS


def _scaled(sample: Sample, scale: float) -> Sample:
    height, width = sample["img"].shape[:2]
    return resize(sample, max(round(width * scale), 1), max(round(height * scale), 1))


@TRANSFORMS.register()
@dataclass
class Resize(Transform):
    """Resize to a fixed size.

    Args:
        target_size: width and height.
        keep_ratio: keep the aspect: the image becomes as large as fits within ``target_size``, whose longer side
            counts for the image's longer side, whichever way it lies.
        size_divisor: round both sides up to a multiple of this.
        interp: NEAREST, LINEAR, CUBIC, AREA, LANCZOS4, or RANDOM for any of them.
    """

    target_size: tuple[int, int] = (512, 512)
    keep_ratio: bool = False
    size_divisor: int | None = None
    interp: str = "LINEAR"

    def __post_init__(self) -> None:
        self.target_size = size_pair(self, "target_size", self.target_size)
        if self.interp not in (*INTERPOLATIONS, "RANDOM"):
            raise UserError(
                f"interp of Resize is {self.interp!r}.", f"Choose one of {', '.join(INTERPOLATIONS)}, RANDOM."
            )
        if self.size_divisor is not None:
            check_range(self, 1, 1 << 16, "size_divisor")

    @property
    def is_random(self) -> bool:
        """True with ``interp='RANDOM'``."""
        return self.interp == "RANDOM"

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Resize."""
        name = self.interp
        if name == "RANDOM":
            names = list(INTERPOLATIONS)
            name = names[need_rng(self, rng).integers(len(names))]
        width, height = self.target_size
        if self.keep_ratio:
            old_h, old_w = sample["img"].shape[:2]
            scale = min(max(width, height) / max(old_w, old_h), min(width, height) / min(old_w, old_h))
            width, height = max(round(old_w * scale), 1), max(round(old_h * scale), 1)
        if self.size_divisor:
            width, height = (math.ceil(side / self.size_divisor) * self.size_divisor for side in (width, height))
        return resize(sample, width, height, INTERPOLATIONS[name])


@TRANSFORMS.register()
@dataclass
class ResizeByLong(Transform):
    """Resize so that the longer side has ``long_size`` pixels."""

    long_size: int

    def __post_init__(self) -> None:
        check_range(self, 1, 1 << 16, "long_size")

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Resize."""
        return _scaled(sample, self.long_size / max(sample["img"].shape[:2]))


@TRANSFORMS.register()
@dataclass
class ResizeByShort(Transform):
    """Resize so that the shorter side has ``short_size`` pixels.

    Args:
        short_size: pixels; of a list one is drawn for every sample.
        max_size: the longer side does not become longer than this.
    """

    short_size: int | Sequence[int]
    max_size: float = 1e10

    def __post_init__(self) -> None:
        sizes = self.short_size if isinstance(self.short_size, (list, tuple)) else [self.short_size]
        if not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
            raise UserError(f"short_size of ResizeByShort is {self.short_size!r}.", "Give a positive integer.")
        check_range(self, 1, 1e10, "max_size")

    @property
    def is_random(self) -> bool:
        """True when ``short_size`` is a list."""
        return isinstance(self.short_size, (list, tuple))

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Resize."""
        short = self.short_size
        if isinstance(short, (list, tuple)):
            short = short[need_rng(self, rng).integers(len(short))]
        low, high = sorted(sample["img"].shape[:2])
        if short / low * high > self.max_size:  # type: ignore[operator]
            short = int(self.max_size / high * low)
        return _scaled(sample, short / low)  # type: ignore[operator]


@TRANSFORMS.register()
@dataclass
class LimitLong(Transform):
    """Bring the longer side into a range and keep the aspect.

    Args:
        max_long: longer images become this long.
        min_long: shorter ones become this long.
    """

    max_long: int | None = None
    min_long: int | None = None

    def __post_init__(self) -> None:
        check_range(self, 1, 1 << 16, *(name for name in ("max_long", "min_long") if getattr(self, name) is not None))
        if self.max_long is not None and self.min_long is not None:
            check_order(self, "min_long", "max_long")

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Resize if need be."""
        long = max(sample["img"].shape[:2])
        target = long
        if self.max_long is not None:
            target = min(target, self.max_long)
        if self.min_long is not None:
            target = max(target, self.min_long)
        return sample if target == long else _scaled(sample, target / long)


@TRANSFORMS.register()
@dataclass
class ResizeRangeScaling(RandomTransform):
    """Resize so that the longer side has a random number of pixels.

    Args:
        min_value: the least.
        max_value: the most.
    """

    min_value: int = 400
    max_value: int = 600

    def __post_init__(self) -> None:
        check_range(self, 1, 1 << 16, "min_value", "max_value")
        check_order(self, "min_value", "max_value")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize."""
        size = int(rng.uniform(self.min_value, self.max_value) + 0.5)
        return _scaled(sample, size / max(sample["img"].shape[:2]))


@TRANSFORMS.register()
@dataclass
class ResizeStepScaling(RandomTransform):
    """Scale by a random factor.

    Args:
        min_scale_factor: the least factor.
        max_scale_factor: the largest.
        scale_step_size: factors are this far apart; 0 draws any number of the range.
    """

    min_scale_factor: float = 0.75
    max_scale_factor: float = 1.25
    scale_step_size: float = 0.25

    def __post_init__(self) -> None:
        check_range(self, 1e-3, 1e3, "min_scale_factor", "max_scale_factor")
        check_range(self, 0, 1e3, "scale_step_size")
        check_order(self, "min_scale_factor", "max_scale_factor")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Scale."""
        low, high = self.min_scale_factor, self.max_scale_factor
        if self.scale_step_size == 0 or low == high:
            return _scaled(sample, rng.uniform(low, high))
        factors = np.linspace(low, high, int((high - low) / self.scale_step_size + 1))
        return _scaled(sample, float(factors[rng.integers(len(factors))]))

"""The chain of transforms that turns what is stored into what a network reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from paddleseg_slim.data.image import read_image, read_label
from paddleseg_slim.data.transforms.base import Sample, Transform
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import TRANSFORMS


def channels_first(image: np.ndarray) -> np.ndarray:
    """``[H, W, C]`` as a new array ``[C, H, W]`` of the same type; OpenCV does it several times faster than NumPy."""
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    for channel, plane in enumerate(planes):
        cv2.extractChannel(image, channel, plane)
    return planes


@TRANSFORMS.register()
class Compose(Transform):
    """Read the image if it is given as a path, apply the transforms in order, put channels first.

    Args:
        transforms: the transforms; none leaves the image as it is.
        to_rgb: the network takes RGB; False gives it BGR. Samples and files are RGB before.
        img_channels: 3, or 1 for grey images.
    """

    def __init__(self, transforms: Sequence[Transform], to_rgb: bool = True, img_channels: int = 3) -> None:
        if not isinstance(transforms, (list, tuple)) or not all(callable(item) for item in transforms):
            raise UserError("transforms is not a list of transforms.", "Write a list of `- type: Name` entries.")
        self.transforms = list(transforms)
        self.to_rgb = to_rgb
        self.img_channels = img_channels

    @property
    def is_random(self) -> bool:
        """Whether any of the transforms draws random numbers."""
        return any(item.is_random for item in self.transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Transform a sample.

        Args:
            sample: ``img`` a path or an array ``[H, W, C]`` or ``[H, W]`` in RGB, ``label`` likewise if there is one.
            rng: what random transforms draw from.

        Returns:
            The same dict; ``img`` is float32 ``[C, H, W]``.
        """
        image = sample["img"]
        if not isinstance(image, np.ndarray):
            sample.setdefault("name", str(image))
            image = read_image(image, self.img_channels)
        if isinstance(sample.get("label"), str):
            sample["label"] = read_label(sample["label"])
        image = image[:, :, None] if image.ndim == 2 else image
        if image.shape[2] != self.img_channels:
            raise UserError(
                f"An image has {image.shape[2]} channels, img_channels is {self.img_channels}.",
                "Set img_channels of the dataset to what the images have.",
            )
        if not self.to_rgb and self.img_channels == 3:
            image = image[:, :, ::-1]
        sample["img"] = np.ascontiguousarray(image, np.float32)
        sample.setdefault("trans_info", [])
        for transform in self.transforms:
            sample = transform(sample, rng)
        sample["img"] = channels_first(sample["img"])
        return sample

    def describe(self) -> dict[str, Any]:
        """The chain as a list of entries under ``transforms``, for ``deploy.yaml``.

        Raises:
            UserError: a transform is random.
        """
        random = [type(item).__name__ for item in self.transforms if item.is_random]
        if random:
            raise UserError(
                f"The preprocessing has random transforms: {', '.join(random)}.",
                "Take them out of the transforms of val_dataset.",
            )
        return {"transforms": [item.describe() for item in self.transforms]}

"""The embedded real images of the fashion scenes: garment photographs and backgrounds, one set a split."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

FOLDER = Path(__file__).resolve().parents[1] / "assets"
SIDE = 28
SPLITS = ("train", "val", "test")
MASK_THRESHOLD = 12  # Fashion-MNIST is black around a garment, but for faint noise
SPECK_PIXELS = 8
# A hole in these is seen through when it is larger than this many pixels (straps, handles); all others are cloth.
SEE_THROUGH_PIXELS = 9
SEE_THROUGH_CLASSES = (5, 8)


@dataclass(frozen=True)
class Garments:
    """The garments of one split.

    Attributes:
        images: uint8 ``[N, 28, 28]``, as in Fashion-MNIST.
        masks: bool ``[N, 28, 28]``, which pixels are garment.
        labels: uint8 ``[N]``, Fashion-MNIST's class numbers, ascending.
        per_class: how many there are of each class; those of class c start at ``c * per_class``.
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    per_class: int


def _read(name: str) -> np.ndarray:
    with Image.open(FOLDER / name) as image:
        return np.asarray(image)


@functools.lru_cache(maxsize=1)
def _manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "assets.json").read_text(encoding="utf-8"))


def garment_masks(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which pixels are garment: bool ``[N, 28, 28]``.

    A pixel above the noise belongs to the garment unless it is part of a speck; a hole that does not reach the border
    belongs to it too (white cloth is black in Fashion-MNIST), but the large holes of sandals and bags, which show
    what is behind them.
    """
    within_image = np.zeros((3, 3, 3), bool)
    within_image[1] = ndimage.generate_binary_structure(2, 1)
    with_diagonals = np.zeros((3, 3, 3), bool)
    with_diagonals[1] = True
    masks = images > MASK_THRESHOLD
    pieces, _ = ndimage.label(masks, with_diagonals)
    masks &= (np.bincount(pieces.ravel()) >= SPECK_PIXELS)[pieces]
    framed = np.pad(~masks, ((0, 0), (1, 1), (1, 1)), constant_values=True)  # the outside is one region per image
    regions, count = ndimage.label(framed, within_image)
    outside = np.zeros(count + 1, bool)
    outside[regions[:, 0, 0]] = True
    large = np.bincount(regions.ravel(), minlength=count + 1) > SEE_THROUGH_PIXELS
    regions = regions[:, 1:-1, 1:-1]
    seen_through = large[regions] & np.isin(labels, SEE_THROUGH_CLASSES)[:, None, None]
    return masks | ((regions > 0) & ~outside[regions] & ~seen_through)


@functools.lru_cache(maxsize=3)
def garments(split: str) -> Garments:
    """Return the garments of ``train``, ``val`` or ``test``; no garment is in two splits."""
    entry = _manifest()[split]
    sheet = _read(entry["garments"]["file"])
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    images = sheet.reshape(rows, SIDE, columns, SIDE).transpose(0, 2, 1, 3).reshape(-1, SIDE, SIDE)
    labels = (np.arange(len(images)) // entry["per_class"]).astype(np.uint8)
    return Garments(np.ascontiguousarray(images), garment_masks(images, labels), labels, entry["per_class"])


def _halve(image: np.ndarray) -> np.ndarray:
    even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2].astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) >> 2).astype(np.uint8)


def _part(photo: np.ndarray, split: str) -> np.ndarray:
    """The part of a photograph that belongs to a split: the left 60 % to train, halves of the rest to the others."""
    column, row = photo.shape[1] * 3 // 5, photo.shape[0] // 2
    return {"train": photo[:, :column], "val": photo[:row, column:], "test": photo[row:, column:]}[split]


@functools.lru_cache(maxsize=3)
def backgrounds(split: str) -> list[list[np.ndarray]]:
    """Return the background photographs of a split: for each its pyramid, halved at every level.

    A level is uint8 ``[H, W, 3]`` or, for a photograph in grey, ``[H, W, 1]``. Every photograph serves all splits, each
    with a part of its own, so that the splits are alike and yet no pixel is in two of them.
    """
    pyramids = []
    for entry in _manifest()["backgrounds"]:
        pixels = _part(_read(entry["file"]), split)
        levels = [pixels if pixels.ndim == 3 else pixels[:, :, None]]
        while min(levels[-1].shape[:2]) >= 64:
            levels.append(_halve(levels[-1]))
        pyramids.append(levels)
    return pyramids

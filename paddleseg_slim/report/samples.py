"""Sample predictions as pictures: image, label, before, after, and the pixels in which the two differ."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file

MAX_SIDE = 480
"""Longer sides are scaled down to this: a page must stay readable on a phone and small enough to send."""

CHANGED = (232, 30, 120)
_IGNORED = 255


@dataclass(frozen=True)
class Tile:
    """One picture of a sample: its caption, its file content and the MIME type of that."""

    caption: str
    data: bytes
    mime: str


def class_colors(count: int) -> np.ndarray:
    """The colour map of Pascal VOC, uint8 ``[count, 3]``: bits of the class number spread over red, green and blue."""
    numbers = np.arange(count, dtype=np.int64)
    colors = np.zeros((count, 3), np.int64)
    for step in range(8):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> (3 * step + channel)) & 1) << (7 - step)
    return colors.astype(np.uint8)


_CLEAR = ("#e6550d", "#1f9ed1", "#f2c80f", "#2ca25f", "#9467bd", "#e377c2", "#8c6d31", "#17becf", "#a1d99b", "#393b79")
"""Colours of the first classes after the background: told apart also by people who see no red or no green."""


def overlay_colors(count: int) -> np.ndarray:
    """Colours of the classes on a page, uint8 ``[count, 3]``; beyond the clear ones, those of `class_colors`."""
    colors = class_colors(count)
    clear = np.array([[int(text[place : place + 2], 16) for place in (1, 3, 5)] for text in _CLEAR], np.uint8)
    colors[1 : len(clear) + 1] = clear[: max(0, count - 1)]
    return colors


def save_sample(
    path: str | Path,
    image: np.ndarray,
    after: np.ndarray,
    before: np.ndarray | None = None,
    label: np.ndarray | None = None,
) -> None:
    """Write one sample for the report as ``.npz``.

    Args:
        path: the file.
        image: uint8 ``[H, W, 3]``, RGB.
        after: predicted classes ``[H, W]`` of the stage's model (or one class number, for a classifier).
        before: the same of the base's model.
        label: the truth, 255 where it is ignored.
    """
    given = {"image": image, "after": after, "before": before, "label": label}
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in given.items() if array is not None}
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def sample_tiles(path: Path) -> list[Tile]:
    """The pictures of one sample, ready to show.

    Args:
        path: a ``.png`` or ``.jpg``, shown as it is, or an ``.npz`` as of `save_sample`.

    Raises:
        UserError: the file is missing or holds something else.
    """
    remedy = "Run the stage that wrote it again, or take it out of stage.json."
    if not path.is_file():
        raise UserError(f"The sample {path} does not exist.", remedy)
    try:
        if path.suffix.lower() != ".npz":
            with Image.open(path) as picture:
                return [_tile(path.stem, np.asarray(picture.convert("RGB")), photo=True)]
        with np.load(path, allow_pickle=False) as arrays:
            return _compare({name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"The sample {path} cannot be shown: {error}.", remedy) from error


def _compare(arrays: dict[str, np.ndarray]) -> list[Tile]:
    image, after = arrays["image"], arrays["after"]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]")
    captions = {"label": "truth", "before": "before", "after": "after"}
    maps = {name: arrays[name] for name in captions if name in arrays}
    if after.ndim == 0:  # a classifier: one number for the picture
        text = ", ".join(f"{captions[name]}: {int(number)}" for name, number in maps.items())
        return [_tile(text, image, photo=True)]
    if any(values.shape != image.shape[:2] for values in maps.values()):
        raise ValueError(f"the class maps are not of the image's size {list(image.shape[:2])}")
    tiles = [_tile("image", image, photo=True)]
    tiles += [_tile(captions[name], _overlay(image, values)) for name, values in maps.items()]
    if "before" in maps:
        changed = after != maps["before"]
        tiles.append(_tile(f"{changed.mean() * 100:.2f} % of pixels changed", _marked(image, changed)))
    return tiles


def _overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    colors = overlay_colors(256)[np.clip(classes, 0, 255).astype(np.int64)].astype(np.float32)
    shown = (classes != 0) & (classes != _IGNORED)
    share = np.where(shown & _edges(classes), 1.0, np.where(shown, 0.62, 0.0))[..., None]
    return (image * (1 - share) * 0.9 + colors * share).astype(np.uint8)


def _edges(classes: np.ndarray) -> np.ndarray:
    """Pixels beside another class, bool ``[H, W]``."""
    edges = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        differ = np.diff(classes.astype(np.int64), axis=axis) != 0
        edges |= np.insert(differ, 0, False, axis=axis) | np.insert(differ, differ.shape[axis], False, axis=axis)
    return edges


def _marked(image: np.ndarray, changed: np.ndarray) -> np.ndarray:
    grey = np.repeat(image.mean(axis=2, keepdims=True) * 0.5 + 120, 3, axis=2).clip(0, 255)
    return np.where(changed[..., None], np.array(CHANGED, np.float32), grey).astype(np.uint8)


def _tile(caption: str, pixels: np.ndarray, photo: bool = False) -> Tile:
    picture = Image.fromarray(pixels)
    if max(picture.size) > MAX_SIDE:
        scale = MAX_SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS if photo else Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return Tile(caption, buffer.getvalue(), "image/png")

"""Reading image and label files, whatever their names and formats, with an error that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from paddleseg_slim.errors import UserError

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it would print, our errors say


def _decode(path: str | os.PathLike[str], flags: int) -> np.ndarray:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"The image {file} does not exist.", "Correct the path in the list file.")
    data = np.fromfile(file, np.uint8)  # OpenCV itself cannot open non-ASCII paths everywhere
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        what = "is empty" if not data.size else "cannot be read as an image"
        raise UserError(f"The file {file} {what} ({data.size} bytes).", "Replace the file or take it off the list.")
    return pixels


def read_image(path: str | os.PathLike[str], channels: int = 3) -> np.ndarray:
    """Read an image: uint8 ``[H, W, 3]`` in RGB, or ``[H, W, 1]`` with ``channels=1``.

    As in PaddleSeg: grey images are repeated over the three channels, an alpha channel is dropped, 16 bits become 8
    (the upper ones), and the EXIF orientation is applied.

    Raises:
        UserError: the file is missing, empty or no image; the message names it.
    """
    if channels == 1:
        return _decode(path, cv2.IMREAD_GRAYSCALE)[:, :, None]
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_label(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label map: ``[H, W]``, uint8 or, for 16-bit files, int32. Palette images give the palette's numbers.

    Raises:
        UserError: the file is missing, damaged or no image, or it has colour channels.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"The label {file} does not exist.", "Correct the path in the list file.")
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"The label {file} cannot be read ({file.stat().st_size} bytes): {error}",
            "Replace the file or take it off the list.",
        ) from error
    if pixels.ndim != 2:
        raise UserError(
            f"The label {file} has {pixels.shape[2]} channels; a label map has one, of class numbers.",
            "Convert colour masks to class numbers, one number a pixel (a palette PNG is fine).",
        )
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.int32)

"""What a prediction leaves on disk."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file, write_text
from paddleseg_slim.tasks.visual import blend, colour_map


def mask_names(names: Sequence[PurePath]) -> list[PurePath]:
    """File names of the masks of pictures: ``x.png`` for ``x.jpg``.

    Where two pictures would share one (``x.jpg`` and ``x.png``), the whole name of the picture stays in that of its
    mask: ``x.jpg.png`` and ``x.png.png``. Names that differ in nothing but case count as shared.

    Args:
        names: relative paths of the pictures, no two the same.
    """
    short = [name.with_suffix(".png") for name in names]
    whole = [name.with_name(f"{name.name}.png") for name in names]
    wanted = Counter(_key(name) for pair in zip(short, whole) for name in set(pair))
    return [one if wanted[_key(one)] == 1 else other for one, other in zip(short, whole)]


def _key(name: PurePath) -> str:
    return name.as_posix().casefold()


class PredictionWriter(ABC):
    """Writes the predictions of a list of pictures."""

    @abstractmethod
    def add(self, name: PurePath, picture: np.ndarray, logits: np.ndarray) -> None:
        """Write one prediction.

        Args:
            name: relative path of the picture.
            picture: uint8 ``[H, W, 3]``, RGB.
            logits: of this picture, ``[C, ...]``.
        """

    @abstractmethod
    def close(self) -> str:
        """Finish; where the results are, in words."""


class MaskWriter(PredictionWriter):
    """Overlays and pseudo-colour masks, in the folders and names that PaddleSeg's predict.py uses.

    Args:
        folder: ``added_prediction/`` and ``pseudo_color_prediction/`` are made in it.
        names: relative paths of all the pictures that will come.
        custom_colour: R G B values of the first classes.
    """

    def __init__(self, folder: Path, names: Sequence[PurePath], custom_colour: Sequence[int] | None = None) -> None:
        self._colours = colour_map(custom_colour)
        self._mask_of = dict(zip(names, mask_names(names)))
        self._overlays, self._masks = folder / "added_prediction", folder / "pseudo_color_prediction"

    def add(self, name: PurePath, picture: np.ndarray, logits: np.ndarray) -> None:
        """Write the overlay under the picture's name and the mask (a palette PNG of class numbers; `mask_names`)."""
        classes = logits.argmax(0).astype(np.uint8)
        save_picture(Image.fromarray(blend(picture, classes, self._colours)), self._overlays / name)
        save_picture(mask_picture(classes, self._colours), self._masks / self._mask_of[name])

    def close(self) -> str:
        """Name the two folders."""
        return f"Predicted images are saved in {self._overlays} and {self._masks} ."


def mask_picture(classes: np.ndarray, colours: np.ndarray) -> Image.Image:
    """A picture whose pixels are the class numbers ``classes``, uint8 ``[H, W]``, with ``colours`` as its palette."""
    mask = Image.fromarray(classes)
    mask.putpalette(colours.ravel().tolist())
    return mask


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format that the suffix of ``path`` names, PNG where it names none that is known."""
    with atomic_file(path) as temporary:
        image.save(temporary, format=_FORMATS.get(path.suffix.lower(), "PNG"))


_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}


class ClassWriter(PredictionWriter):
    """``predictions.csv``: picture, class and probability.

    Args:
        folder: where the file goes.
        class_names: names of the classes.
        custom_colour: refused, there is nothing to colour.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], custom_colour: Sequence[int] | None = None) -> None:
        if custom_colour:
            raise UserError("custom_color: a classifier paints nothing.", "Leave --custom_color out.")
        self._path, self._names = folder / "predictions.csv", class_names
        self._text = io.StringIO()
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(["image", "class", "probability"])

    def add(self, name: PurePath, picture: np.ndarray, logits: np.ndarray) -> None:
        """Add a row."""
        exponents = np.exp(logits - logits.max())
        best = int(logits.argmax())
        self._rows.writerow([name.as_posix(), self._names[best], f"{exponents[best] / exponents.sum():.4f}"])

    def close(self) -> str:
        """Write the file."""
        write_text(self._path, self._text.getvalue())
        return f"Predictions are saved in {self._path} ."

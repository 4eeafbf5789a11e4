"""Datasets of image and label files, listed in a text file as PaddleSeg lists them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from paddleseg_slim.data.base import VisionDataset, check_mode
from paddleseg_slim.data.image import read_image, read_label
from paddleseg_slim.data.transforms.base import Sample, Transform
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import DATASETS

Pair = tuple[str, "str | None"]


def _split_where_files_are(line: str, separator: str | None, root: Path) -> list[str] | None:
    """Split at the one separator where both sides are files: paths may hold the separator, a space say."""
    pieces = line.split(separator or " ")
    joint = separator or " "
    found = []
    for cut in range(1, len(pieces)):
        sides = [joint.join(pieces[:cut]).strip(), joint.join(pieces[cut:]).strip()]
        if all(side and (root / side).is_file() for side in sides):
            found.append(sides)
    return found[0] if len(found) == 1 else None


def read_list(path: str | Path, root: str | Path, separator: str = " ", labels: bool = True) -> list[Pair]:
    """Read a list file: one sample a line, image and label relative to ``root``, between them the separator.

    Blank lines, CRLF, a byte-order mark and spaces around names do not matter. The separator ``' '`` stands for any
    run of spaces and tabs. A line with more separators than one is split where both sides are existing files, so
    paths with spaces work as long as that is unambiguous; another separator (a comma, ``'\\t'``) always is.

    Args:
        path: the list file, UTF-8.
        root: folder that the paths are relative to.
        separator: between image and label.
        labels: every line needs a label; False accepts lines without one.

    Returns:
        Paths of image and label (None where there is none).

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line cannot be split; the message has its number.
    """
    file, root = Path(path), Path(root)
    if not file.is_file():
        raise UserError(f"The list file {file} does not exist.", "Correct train_path, val_path or test_path.")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"The list file {file} is not UTF-8: {error}", "Save it as UTF-8.") from error
    cut = None if separator == " " else separator
    pairs: list[Pair] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        items = [item.strip() for item in line.strip().split(cut)]
        if len(items) > 2:
            items = _split_where_files_are(line.strip(), cut, root) or items
        if len(items) > 2 or (len(items) < 2 and labels) or not all(items):
            raise UserError(
                f"Line {number} of {file} has {len(items)} parts, not image{separator!r}label: {line.strip()[:120]!r}",
                "Write image and label separated once; with spaces in paths set separator: '\\t' (or ',') and use it.",
            )
        pairs.append((str(root / items[0]), str(root / items[1]) if len(items) == 2 else None))
    if not pairs:
        raise UserError(f"The list file {file} is empty.", "Write one line a sample: image and label.")
    return pairs


def label_table(label_map: Mapping[int, int]) -> np.ndarray:
    """Return ``label_map`` as a table, int64 ``[65536]``; labels that it does not name stay.

    Raises:
        UserError: a key or value is no integer from 0 to 65535.
    """
    table = np.arange(65536)
    for old, new in label_map.items():
        if not all(isinstance(value, int) and 0 <= value < 65536 for value in (old, new)):
            raise UserError(f"label_map has the entry {old!r}: {new!r}.", "Map label numbers to label numbers.")
        table[old] = new
    return table


class FileDataset(VisionDataset):
    """Samples of image and label files.

    Args:
        file_list: paths of image and label (None where there is none) of every sample.
        transforms, mode, num_classes, ignore_index, img_channels, edge, seed, class_names: see `VisionDataset`.
        label_map: new label for labels of the files, read before anything else: ``{255: 1}`` for 0/255 masks.
    """

    def __init__(
        self,
        file_list: Sequence[Pair],
        transforms: Sequence[Transform],
        mode: str,
        num_classes: int,
        ignore_index: int = 255,
        img_channels: int = 3,
        edge: bool = False,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
        label_map: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(transforms, mode, num_classes, ignore_index, img_channels, edge, seed, class_names)
        self.file_list = list(file_list)
        self._table = label_table(label_map) if label_map else None

    def __len__(self) -> int:
        return len(self.file_list)

    def read(self, index: int, epoch: int = 0) -> Sample:
        """Read one image and its label.

        Raises:
            UserError: a file is missing or damaged, or the two differ in size; the message names it.
        """
        image_path, label_path = self.file_list[index]
        sample: Sample = {"img": read_image(image_path, self.img_channels), "name": image_path}
        if label_path is not None:
            label = read_label(label_path)
            if label.shape != sample["img"].shape[:2]:
                raise UserError(
                    f"{image_path} has {_size(sample['img'])} pixels, its label {label_path} {_size(label)}.",
                    "Image and label must have the same size: correct the pair in the list file, or the label.",
                )
            sample["label"] = label if self._table is None else self._table[label].astype(np.int32)
        return sample

    def drop(self, indices: Collection[int]) -> None:
        """Forget samples, those whose files cannot be read."""
        gone = set(indices)
        self.file_list = [pair for index, pair in enumerate(self.file_list) if index not in gone]


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def check_root(dataset_root: str | Path) -> Path:
    """Return the folder of a dataset.

    Raises:
        UserError: there is none.
    """
    root = Path(dataset_root)
    if not root.is_dir():
        raise UserError(f"dataset_root {root} is not a folder.", "Give the folder that holds the data.")
    return root


@DATASETS.register()
class Dataset(FileDataset):
    """Files listed in a text file (see `read_list`), PaddleSeg's dataset for one's own data.

    Args:
        transforms: what is done to every sample.
        dataset_root: folder that the paths in the lists are relative to.
        num_classes: number of classes, without the ignored one.
        mode: ``train``, ``val`` or ``test``.
        img_channels: 3, or 1 for grey images.
        train_path: list file of the mode ``train``.
        val_path: list file of the mode ``val``.
        test_path: list file of the mode ``test``; labels may be missing in it.
        separator: between image and label in a line.
        ignore_index: label of the pixels that do not count.
        edge: also give the edges of the label map (training only).
        class_names: names of the classes.
        label_map: new label for labels of the files: ``{255: 1}`` for 0/255 masks.
        seed: of the augmentation.
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        dataset_root: str,
        num_classes: int,
        mode: str = "train",
        img_channels: int = 3,
        train_path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        separator: str = " ",
        ignore_index: int = 255,
        edge: bool = False,
        class_names: Sequence[str] | None = None,
        label_map: Mapping[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        mode = check_mode(mode)
        root = check_root(dataset_root)
        path = {"train": train_path, "val": val_path, "test": test_path}[mode]
        if path is None:
            raise UserError(f"The mode is {mode}, but {mode}_path is missing.", f"Give {mode}_path, the list file.")
        if not separator:
            raise UserError("separator is empty.", "Give what stands between image and label, ' ' or ','.")
        super().__init__(
            read_list(path, root, separator, labels=mode != "test"),
            transforms,
            mode,
            num_classes,
            ignore_index,
            img_channels,
            edge,
            seed,
            class_names,
            label_map,
        )

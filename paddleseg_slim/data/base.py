"""What every dataset shares: a sample is a pure function of ``(seed, epoch, index)``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from paddleseg_slim.data.edge import binary_edge
from paddleseg_slim.data.transforms.base import Sample, Transform
from paddleseg_slim.data.transforms.compose import Compose
from paddleseg_slim.errors import UserError

MODES = ("train", "val", "test")


def check_mode(mode: str) -> str:
    """Return the mode in lower case.

    Raises:
        UserError: it is not train, val or test.
    """
    if str(mode).lower() not in MODES:
        raise UserError(f"A dataset has no mode {mode!r}.", f"Choose one of {', '.join(MODES)}.")
    return str(mode).lower()


class VisionDataset(ABC):
    """Base of the datasets.

    ``dataset[(epoch, index)]`` or ``dataset[index]`` (epoch 0) gives a dict:

    - ``img``: float32 ``[C, H, W]``;
    - ``label``: int64, ``[H, W]`` for segmentation, ``[]`` for classification; missing where there are no labels;
    - ``edge``: int64 ``[H, W]`` of 0 and 1, with ``edge=True`` or ``AddEdgeLabel`` while training;
    - ``trans_info``: what changed the size of ``img``, in order: ``('resize' or 'padding', (height, width) before)``.
      While training ``label`` is transformed with ``img``; otherwise it keeps the size of the file, and the prediction
      is brought back to it by undoing ``trans_info``;
    - ``name``: which sample it is, for messages and file names.

    Args:
        transforms: what is done to every sample, in order.
        mode: ``train``, ``val`` or ``test``.
        num_classes: number of classes, without the ignored one.
        ignore_index: label of the pixels that do not count.
        img_channels: 3 or 1.
        edge: also give the edges of the label map (training only).
        seed: of the augmentation.
        class_names: names of the classes; numbers when not given.
    """

    synchronous_fields: tuple[str, ...] = ("label",)
    """What is transformed together with ``img`` while training."""

    generated: ClassVar[str] = ""
    """What the samples are, in the plural, where code makes them instead of reading them from files of a user."""

    def __init__(
        self,
        transforms: Sequence[Transform],
        mode: str,
        num_classes: int,
        ignore_index: int = 255,
        img_channels: int = 3,
        edge: bool = False,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.mode = check_mode(mode)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise UserError(f"num_classes is {num_classes!r}.", "Give the number of classes, an integer of at least 1.")
        if img_channels not in (1, 3):
            raise UserError(f"img_channels is {img_channels!r}.", "Give 3 for colour or 1 for grey images.")
        self.transforms = Compose(transforms, img_channels=img_channels)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.img_channels = img_channels
        self.edge = edge
        self.seed = seed
        self.class_names = list(class_names) if class_names else [str(number) for number in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise UserError(
                f"num_classes is {num_classes}, but there are {len(self.class_names)} class names.",
                "Make the two agree.",
            )

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples in an epoch."""

    @abstractmethod
    def read(self, index: int, epoch: int = 0) -> Sample:
        """Return the sample as it is stored: ``img`` uint8 or float32 ``[H, W, C]`` in RGB, ``label``, ``name``."""

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample = self.read(int(index), int(epoch))
        training = self.mode == "train"
        sample["gt_fields"] = [name for name in self.synchronous_fields if training and name in sample]
        sample["trans_info"] = []
        sample = self.transforms(sample, np.random.default_rng([self.seed, int(epoch), int(index)]))
        del sample["gt_fields"]
        if "label" in sample:
            if self.edge and training:
                sample["edge"] = binary_edge(sample["label"], self.num_classes, radius=2)
            if "edge" in sample:  # outside of the image AddEdgeLabel's map is padded like the label
                sample["edge"] = np.where(sample["edge"] == self.ignore_index, 0, sample["edge"]).astype(np.int64)
            sample["label"] = np.asarray(sample["label"], np.int64)
            self._check_label(sample)
        return sample

    def _check_label(self, sample: Sample) -> None:
        """Refuse a label that is no class before a kernel reads beyond its table; the preflight opens a part only."""
        label = sample["label"]
        if label.size == 0 or (label.min() >= 0 and label.max() < self.num_classes):
            return
        wrong = np.unique(label[((label < 0) | (label >= self.num_classes)) & (label != self.ignore_index)])
        if wrong.size:
            raise UserError(
                f"{sample.get('name')} has labels that are no class (0 to {self.num_classes - 1}) and not ignored "
                f"({self.ignore_index}): {', '.join(map(str, wrong[:8]))}.",
                "check-data finds all such files; a label_padding_value must be a class or ignore_index.",
            )

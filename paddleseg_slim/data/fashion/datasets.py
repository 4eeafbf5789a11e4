"""The embedded data as datasets: scenes to segment, garments to classify."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_slim.data.base import VisionDataset, check_mode
from paddleseg_slim.data.fashion import assets
from paddleseg_slim.data.fashion.scene import CANVAS, KINDS, make_scene
from paddleseg_slim.data.transforms.base import Sample, Transform
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import DATASETS

GARMENT_NAMES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_KIND_OF = {number: place for place, members in enumerate(KINDS.values()) for number in members}
LABEL_SETS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    # names of the classes without the background, and the class of each garment
    "fashion10": (GARMENT_NAMES, tuple(range(10))),
    "fashion5": (tuple(KINDS), tuple(_KIND_OF[number] for number in range(10))),
}
"""``fashion10``: Fashion-MNIST's ten classes. ``fashion5``: top, trousers, dress, footwear, bag."""

DEFAULT_SCENES = {"train": 4000, "val": 200, "test": 500}


def _label_set(name: str, num_classes: int | None, background: int) -> tuple[list[str], np.ndarray]:
    if name not in LABEL_SETS:
        raise UserError(f"Unknown label_set {name!r}.", f"Choose one of {', '.join(LABEL_SETS)}.")
    names, classes = LABEL_SETS[name]
    expected = len(names) + background
    if num_classes not in (None, expected):
        raise UserError(
            f"num_classes is {num_classes}, but label_set {name!r} has {expected} classes.",
            f"Set num_classes to {expected} or leave it out.",
        )
    return ["background"] * background + list(names), np.array([0] * background + [c + background for c in classes])


def _size(size: int | Sequence[int], least: int) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and least <= side <= 8192 for side in pair):
        raise UserError(f"size is {size!r}.", f"Give one side or [width, height] in pixels, at least {least}.")
    return pair[0], pair[1]


def _count(num_samples: int | None, default: int) -> int:
    count = default if num_samples is None else num_samples
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"num_samples is {num_samples!r}.", "Give a number of at least 1.")
    return count


@DATASETS.register()
class FashionScenes(VisionDataset):
    """Scenes of real garments on real photographs, with the garment's class for every pixel (0 is the background).

    Garments and backgrounds of the three modes are different ones. While training, every epoch has new scenes; ``val``
    and ``test`` are always the same.

    Args:
        transforms: what is done to every sample.
        mode: ``train``, ``val`` (to choose by) or ``test`` (to report).
        num_samples: scenes in an epoch; 4000, 200 and 500 when not given.
        size: side, or width and height, of a scene in pixels.
        label_set: ``fashion10`` (11 classes with the background) or ``fashion5`` (6 classes).
        num_classes: must agree with ``label_set`` when given.
        seed: of the scenes and of the augmentation.
        ignore_index: label of the pixels that do not count; scenes have none, transforms may add them.
        edge: also give the edges of the label map (training only).
    """

    generated = "scenes"

    def __init__(
        self,
        transforms: Sequence[Transform] = (),
        mode: str = "train",
        num_samples: int | None = None,
        size: int | Sequence[int] = CANVAS,
        label_set: str = "fashion10",
        num_classes: int | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        edge: bool = False,
    ) -> None:
        names, classes = _label_set(label_set, num_classes, background=1)
        super().__init__(
            transforms, mode, len(names), ignore_index=ignore_index, edge=edge, seed=seed, class_names=names
        )
        self.size = _size(size, least=16)
        self.num_samples = _count(num_samples, DEFAULT_SCENES[self.mode])
        self.label_set = label_set
        self.scene_seed = seed
        self._classes = classes.astype(np.uint8)

    def __len__(self) -> int:
        return self.num_samples

    def read(self, index: int, epoch: int = 0) -> Sample:
        """Return scene ``epoch * len(self) + index`` while training, scene ``index`` otherwise."""
        number = index + epoch * self.num_samples if self.mode == "train" else index
        scene = make_scene(self.scene_seed, self.mode, number, self.size)
        return {"img": scene.image, "label": self._classes[scene.label], "name": f"fashion_{self.mode}_{number:06d}"}


@DATASETS.register()
class FashionGarments(VisionDataset):
    """The bare garments, to classify: ``img`` grey on black in three equal channels, ``label`` int64 ``[]``.

    Args:
        transforms: what is done to every sample.
        mode: ``train`` (6000 garments), ``val`` (1000) or ``test`` (1000).
        num_samples: take only so many, evenly over the classes.
        size: side of the square image in pixels, at least 28; the garment is enlarged by a whole factor and centred.
        label_set: ``fashion10`` (10 classes) or ``fashion5`` (5 classes); there is no background class.
        num_classes: must agree with ``label_set`` when given.
        seed: of the augmentation.
    """

    synchronous_fields = ()

    def __init__(
        self,
        transforms: Sequence[Transform] = (),
        mode: str = "train",
        num_samples: int | None = None,
        size: int = assets.SIDE,
        label_set: str = "fashion10",
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        names, classes = _label_set(label_set, num_classes, background=0)
        super().__init__(transforms, mode, len(names), seed=seed, class_names=names)
        self.size = _size(size, least=assets.SIDE)[0]
        self._stock = assets.garments(check_mode(mode))
        self._classes = classes
        total = len(self._stock.labels)
        self.num_samples = min(_count(num_samples, total), total)
        self._order = np.arange(total).reshape(10, -1).T.ravel()  # one garment of each class in turn

    def __len__(self) -> int:
        return self.num_samples

    def read(self, index: int, epoch: int = 0) -> Sample:
        """Return one garment: ``img`` uint8 ``[size, size, 3]``."""
        at = int(self._order[index])
        factor = self.size // assets.SIDE
        large = self._stock.images[at].repeat(factor, 0).repeat(factor, 1)
        image = np.zeros((self.size, self.size, 3), np.uint8)
        start = (self.size - len(large)) // 2
        image[start : start + len(large), start : start + len(large)] = large[:, :, None]
        label = np.int64(self._classes[self._stock.labels[at]])
        return {"img": image, "label": label, "name": f"garment_{self.mode}_{at:04d}"}

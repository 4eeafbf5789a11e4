"""Public datasets by PaddleSeg's names, downloaded where PaddleSeg downloads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from paddleseg_slim.data import download
from paddleseg_slim.data.dataset import FileDataset, Pair, check_root, read_list
from paddleseg_slim.data.transforms.base import Transform
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import DATASETS

_LISTS = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}
_SHORT_LISTS = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}


class NamedDataset(FileDataset):
    """Base of the public datasets; a subclass says where it comes from and how its files are found.

    Args:
        transforms: what is done to every sample.
        dataset_root: folder of the data; where it is missing it is downloaded to there, or, without
            ``dataset_root``, to `download.data_home`.
        mode: which part of the data, one of the class's ``modes``.
        edge: also give the edges of the label map (training only).
        seed: of the augmentation.
    """

    url: ClassVar[str | None] = None
    checksum: ClassVar[str | None] = None
    folder: ClassVar[str] = ""
    classes: ClassVar[int] = 2
    names: ClassVar[Sequence[str] | None] = None
    modes: ClassVar[Sequence[str]] = ("train", "val", "test")
    label_map: ClassVar[Mapping[int, int] | None] = None

    def __init__(
        self,
        transforms: Sequence[Transform],
        dataset_root: str | None = None,
        mode: str = "train",
        edge: bool = False,
        seed: int = 0,
    ) -> None:
        self.subset = str(mode).lower()
        if self.subset not in self.modes:
            raise UserError(
                f"The dataset {type(self).__name__} has no mode {mode!r}.", f"Choose one of {', '.join(self.modes)}."
            )
        mode = self.subset if self.subset in ("val", "test") else "train"
        root = self._root(dataset_root)
        files = self.list_files(root, self.subset)
        if not files:
            raise UserError(
                f"The dataset {type(self).__name__} in {root} has no files for mode {self.subset!r}.",
                "Check dataset_root and the folders below it against the documentation of the dataset.",
            )
        super().__init__(
            files,
            transforms,
            mode,
            self.classes,
            edge=edge,
            seed=seed,
            class_names=self.names,
            label_map=self.label_map,
        )

    def _root(self, dataset_root: str | None) -> Path:
        if self.url is None:
            if dataset_root is None:
                raise UserError(
                    f"{type(self).__name__} needs dataset_root: it cannot be downloaded without an account.",
                    "Download it by hand and give its folder.",
                )
            return check_root(dataset_root)
        target = Path(dataset_root) if dataset_root else download.data_home() / self.folder
        return download.fetch_folder(self.url, target, self.checksum)

    def list_files(self, root: Path, subset: str) -> list[Pair]:
        """The files of a part of the data; here, of a list file."""
        return read_list(root / self.lists[subset], root, self.separator, labels=subset != "test")

    lists: ClassVar[Mapping[str, str]] = _LISTS
    separator: ClassVar[str] = " "


@DATASETS.register()
class OpticDiscSeg(NamedDataset):
    """Optic discs in 381 retina photographs, of iChallenge-AMD; 2 classes."""

    url = "https://paddleseg.bj.bcebos.com/dataset/optic_disc_seg.zip"
    folder = "optic_disc_seg"
    names = ("background", "optic disc")


@DATASETS.register()
class MiniSupervisely(NamedDataset):
    """People in 300 pictures of Supervisely Person, the sample data of PP-HumanSeg; 2 classes."""

    url = "https://paddleseg.bj.bcebos.com/humanseg/data/mini_supervisely.zip"
    folder = "mini_supervisely"
    names = ("background", "person")
    lists = _SHORT_LISTS


@DATASETS.register()
class PPHumanSeg14K(NamedDataset):
    """People in video conferences (Chu et al., WACV 2022); 2 classes; to be downloaded by hand."""

    folder = "PP-HumanSeg14K"
    names = ("background", "person")
    lists = _SHORT_LISTS


@DATASETS.register()
class MiniDeepGlobeRoadExtraction(NamedDataset):
    """Roads in aerial images of the DeepGlobe challenge; 2 classes."""

    url = "https://paddleseg.bj.bcebos.com/dataset/MiniDeepGlobeRoadExtraction.zip"
    folder = "MiniDeepGlobeRoadExtraction"
    names = ("background", "road")
    modes = ("train", "val")
    lists = _SHORT_LISTS
    separator = "|"


class _Vessels(NamedDataset):
    """Blood vessels of the retina; 2 classes; the mode ``test`` is that of ``val``, as in PaddleSeg."""

    names = ("background", "vessel")
    lists: ClassVar[Mapping[str, str]] = {**_LISTS, "test": "val_list.txt"}


@DATASETS.register()
class CHASEDB1(_Vessels):
    """CHASE_DB1: blood vessels of the retina; 2 classes."""

    url = "https://bj.bcebos.com/paddleseg/dataset/chase_db1/chase_db1.zip"
    folder = "chase_db1"


@DATASETS.register()
class DRIVE(_Vessels):
    """DRIVE: blood vessels of the retina; 2 classes."""

    url = "https://bj.bcebos.com/paddleseg/dataset/drive/drive.zip"
    folder = "drive"


@DATASETS.register()
class HRF(_Vessels):
    """HRF: blood vessels of the retina; 2 classes."""

    url = "https://bj.bcebos.com/paddleseg/dataset/hrf/hrf.zip"
    folder = "hrf"


@DATASETS.register()
class STARE(_Vessels):
    """STARE: blood vessels of the retina; 2 classes."""

    url = "https://bj.bcebos.com/paddleseg/dataset/stare/stare.zip"
    folder = "stare"


def _pair_by_name(images: Sequence[Path], labels: Sequence[Path], image_end: str, label_end: str) -> list[Pair]:
    """Pair files whose names agree up to their ends.

    Raises:
        UserError: an image has no label or a label no image; the message names the first.
    """
    keyed = {(path.parent.name, path.name[: -len(image_end)]): path for path in images}
    matching = {(path.parent.name, path.name[: -len(label_end)]): path for path in labels}
    lonely = sorted(set(keyed) ^ set(matching))
    if lonely:
        path = keyed.get(lonely[0]) or matching[lonely[0]]
        raise UserError(
            f"{path} has no {'label' if lonely[0] in keyed else 'image'} ({len(lonely)} files without a partner).",
            "Complete the dataset, or remove these files.",
        )
    return [(str(keyed[key]), str(matching[key])) for key in sorted(keyed)]


@DATASETS.register()
class Cityscapes(NamedDataset):
    """Street scenes; 19 classes; to be downloaded by hand from https://www.cityscapes-dataset.com.

    ``dataset_root`` holds ``leftImg8bit`` and ``gtFine``, the latter with ``*_labelTrainIds.png`` files.
    """

    classes = 19
    names = (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    )

    def list_files(self, root: Path, subset: str) -> list[Pair]:
        """Find the images below ``leftImg8bit`` and their labels below ``gtFine``."""
        images = sorted((root / "leftImg8bit" / subset).glob("*/*_leftImg8bit.png"))
        labels = sorted((root / "gtFine" / subset).glob("*/*_gtFine_labelTrainIds.png"))
        if images and not labels:
            raise UserError(
                f"{root / 'gtFine' / subset} has no *_gtFine_labelTrainIds.png files.",
                "Make them with cityscapesscripts (csCreateTrainIdLabelImgs).",
            )
        return _pair_by_name(images, labels, "_leftImg8bit.png", "_gtFine_labelTrainIds.png")


@DATASETS.register()
class CocoStuff(NamedDataset):
    """COCO-Stuff; 171 classes; ``dataset_root`` holds ``images/*2017/*.jpg`` and ``annotations/*2017/*.png``."""

    classes = 171
    modes = ("train", "val")

    def list_files(self, root: Path, subset: str) -> list[Pair]:
        """Pair the images with the labels of the same name."""
        images = sorted((root / "images" / f"{subset}2017").glob("*.jpg"))
        labels = sorted((root / "annotations" / f"{subset}2017").glob("*.png"))
        return _pair_by_name(images, labels, ".jpg", ".png")


@DATASETS.register()
class ADE20K(NamedDataset):
    """ADE20K scene parsing; 150 classes, 1 to 150 in the files; 0 is ignored."""

    url = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
    checksum = "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"
    folder = "ADEChallengeData2016"
    classes = 150
    modes = ("train", "val")
    label_map: ClassVar[Mapping[int, int] | None] = {0: 255, **{number: number - 1 for number in range(1, 256)}}

    def list_files(self, root: Path, subset: str) -> list[Pair]:
        """Pair the images with the annotations of the same name."""
        part = {"train": "training", "val": "validation"}[subset]
        images = sorted((root / "images" / part).glob("*.jpg"))
        labels = sorted((root / "annotations" / part).glob("*.png"))
        return _pair_by_name(images, labels, ".jpg", ".png")


def _by_names(list_file: Path, images: Path, labels: Path) -> list[Pair]:
    """The files of a list of names: ``<images>/name.jpg`` and ``<labels>/name.png``."""
    return [(str(images / f"{name}.jpg"), str(labels / f"{name}.png")) for name in _names(list_file)]


def _names(list_file: Path) -> list[str]:
    if not list_file.is_file():
        raise UserError(f"{list_file} does not exist.", "Check dataset_root against the dataset's documentation.")
    return [line.strip() for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]


@DATASETS.register()
class PascalVOC(NamedDataset):
    """PASCAL VOC 2012; 21 classes. ``trainaug`` needs the augmented labels (``SegmentationClassAug``, ``aug.txt``)."""

    url = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
    checksum = "md5:6cd6e144f989b92b3379bac3b3de84fd"
    folder = "VOCdevkit"
    classes = 21
    modes = ("train", "trainval", "trainaug", "val")
    names = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv monitor",
    )

    def list_files(self, root: Path, subset: str) -> list[Pair]:
        """Read the lists below ``VOC2012/ImageSets/Segmentation``."""
        base = root / "VOC2012"
        lists, images, labels = base / "ImageSets" / "Segmentation", base / "JPEGImages", base / "SegmentationClass"
        if subset != "trainaug":
            return _by_names(lists / f"{subset}.txt", images, labels)
        augmented = _by_names(lists / "aug.txt", images, base / "SegmentationClassAug")
        return _by_names(lists / "train.txt", images, labels) + augmented


@DATASETS.register()
class PascalContext(NamedDataset):
    """PASCAL Context; 60 classes; ``dataset_root`` is ``VOC2010`` with the folder ``Context`` of converted labels."""

    classes = 60
    modes = ("train", "trainval", "val")

    def list_files(self, root: Path, subset: str) -> list[Pair]:
        """Read the lists below ``ImageSets/Segmentation``."""
        names = root / "ImageSets" / "Segmentation" / f"{subset}_context.txt"
        return _by_names(names, root / "JPEGImages", root / "Context")

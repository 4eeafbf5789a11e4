"""Datasets, transforms and the loader; importing this package registers all of them by name."""

from paddleseg_slim.data.base import VisionDataset
from paddleseg_slim.data.dataset import Dataset, FileDataset
from paddleseg_slim.data.fashion import FashionGarments, FashionScenes
from paddleseg_slim.data.loader import Loader
from paddleseg_slim.data.named import NamedDataset
from paddleseg_slim.data.transforms import Compose

__all__ = [
    "Compose",
    "Dataset",
    "FashionGarments",
    "FashionScenes",
    "FileDataset",
    "Loader",
    "NamedDataset",
    "VisionDataset",
]

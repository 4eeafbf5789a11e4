"""Datasets, transforms and the loader; importing this package registers all of them by name."""

from paddleseg_slim.data.base import VisionDataset
from paddleseg_slim.data.fashion import FashionGarments, FashionScenes
from paddleseg_slim.data.transforms import Compose

__all__ = ["Compose", "FashionGarments", "FashionScenes", "VisionDataset"]

"""The embedded real data: fashion scenes (segmentation, boxes) and bare garments (classification)."""

from paddleseg_slim.data.fashion.datasets import LABEL_SETS, FashionGarments, FashionScenes
from paddleseg_slim.data.fashion.scene import Scene, make_scene

__all__ = ["LABEL_SETS", "FashionGarments", "FashionScenes", "Scene", "make_scene"]

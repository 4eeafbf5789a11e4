"""PaddleSeg's transforms by their names; importing this package registers them."""

from paddleseg_slim.data.transforms.base import RandomTransform, Sample, Transform
from paddleseg_slim.data.transforms.colour import Normalize, RandomBlur, RandomDistort, RandomNoise
from paddleseg_slim.data.transforms.compose import Compose
from paddleseg_slim.data.transforms.crop import (
    Padding,
    PaddingByAspectRatio,
    RandomCenterCrop,
    RandomPaddingCrop,
    ScalePadding,
)
from paddleseg_slim.data.transforms.edge import AddEdgeLabel
from paddleseg_slim.data.transforms.geometry import (
    RandomAffine,
    RandomHorizontalFlip,
    RandomRotation,
    RandomScaleAspect,
    RandomVerticalFlip,
)
from paddleseg_slim.data.transforms.resize import (
    LimitLong,
    Resize,
    ResizeByLong,
    ResizeByShort,
    ResizeRangeScaling,
    ResizeStepScaling,
)

__all__ = [
    "AddEdgeLabel",
    "Compose",
    "LimitLong",
    "Normalize",
    "Padding",
    "PaddingByAspectRatio",
    "RandomAffine",
    "RandomBlur",
    "RandomCenterCrop",
    "RandomDistort",
    "RandomHorizontalFlip",
    "RandomNoise",
    "RandomPaddingCrop",
    "RandomRotation",
    "RandomScaleAspect",
    "RandomTransform",
    "RandomVerticalFlip",
    "Resize",
    "ResizeByLong",
    "ResizeByShort",
    "ResizeRangeScaling",
    "ResizeStepScaling",
    "Sample",
    "ScalePadding",
    "Transform",
]

"""Segmentation architectures, one file each; importing this package registers them under PaddleSeg's names."""

from paddleseg_slim.models import (
    bisenet,
    deeplab,
    fast_scnn,
    fcn,
    gcnet,
    hardnet,
    hrnet,
    mix_transformer,
    ocrnet,
    pp_humanseg_lite,
    pp_liteseg,
    pspnet,
    resnet_vd,
    segformer,
    stdcnet,
    unet,
)

__all__ = [
    "bisenet",
    "deeplab",
    "fast_scnn",
    "fcn",
    "gcnet",
    "hardnet",
    "hrnet",
    "mix_transformer",
    "ocrnet",
    "pp_humanseg_lite",
    "pp_liteseg",
    "pspnet",
    "resnet_vd",
    "segformer",
    "stdcnet",
    "unet",
]

"""Segmentation architectures, one file each; importing this package registers them under PaddleSeg's names."""

from paddleseg_slim.models import bisenet, fast_scnn, fcn, hardnet, hrnet, ocrnet, pp_humanseg_lite, unet

__all__ = ["bisenet", "fast_scnn", "fcn", "hardnet", "hrnet", "ocrnet", "pp_humanseg_lite", "unet"]

"""Config files: PaddleSeg's YAML read into typed objects, and the components it names built from them."""

from __future__ import annotations

from paddleseg_slim.config.build import build, check
from paddleseg_slim.config.config import Config, config_from_dict, load_config
from paddleseg_slim.config.spec import ComponentSpec, LossSpec

__all__ = ["ComponentSpec", "Config", "LossSpec", "build", "check", "config_from_dict", "load_config"]

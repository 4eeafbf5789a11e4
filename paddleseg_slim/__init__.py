"""Compress trained Paddle vision models and measure what it brought on the engine that runs them."""

from paddleseg_slim.version import __version__

__all__ = ["__version__"]

"""Shim for tools that still call ``setup.py``; the metadata lives in ``pyproject.toml``."""

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:  # older ones cannot read the licence there
    raise SystemExit("setup.py needs setuptools 77 or newer; `pip install .` brings its own.")

setuptools.setup()

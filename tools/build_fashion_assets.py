"""Rebuild ``paddleseg_slim/data/assets``: the real images that the embedded "fashion scenes" are made of.

    apt-get install dataset-fashion-mnist
    pip install "scikit-image==0.26.0"
    python tools/build_fashion_assets.py

The garments come from the IDX files of Debian's ``dataset-fashion-mnist``, the backgrounds from the files that
scikit-image ships. The output is written without loss and is the same file content on every run: pixels are compared,
not PNG bytes, which depend on the version of zlib.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

OUTPUT = Path(__file__).resolve().parents[1] / "paddleseg_slim" / "data" / "assets"
COLUMNS = 50
# split -> (IDX file prefix, first garment of a class, garments per class)
GARMENTS = {"train": ("train", 0, 600), "val": ("train", 600, 100), "test": ("t10k", 0, 100)}
# file that scikit-image ships -> how many times its size is halved (2x2 mean)
BACKGROUNDS = {
    "astronaut.png": 0,
    "brick.png": 0,
    "camera.png": 0,
    "chelsea.png": 0,
    "clock_motion.png": 0,
    "coffee.png": 0,
    "grass.png": 0,
    "gravel.png": 0,
    "hubble_deep_field.jpg": 1,
    "rocket.jpg": 0,
}


def read_idx(path: Path, header: int) -> np.ndarray:
    """Read the bytes of a gzipped IDX file after its header."""
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def garments(folder: Path, prefix: str, first: int, per_class: int) -> np.ndarray:
    """Take ``per_class`` garments of each class, in the order of the file: uint8 ``[10 * per_class, 28, 28]``."""
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 8)
    order = [np.flatnonzero(labels == number)[first : first + per_class] for number in range(10)]
    return images[np.concatenate(order)]


def atlas(images: np.ndarray) -> np.ndarray:
    """Lay garments out in rows of `COLUMNS`."""
    rows = len(images) // COLUMNS
    return images.reshape(rows, COLUMNS, 28, 28).transpose(0, 2, 1, 3).reshape(rows * 28, COLUMNS * 28)


def halve(image: np.ndarray) -> np.ndarray:
    """Halve height and width by the rounded mean of 2x2 pixels."""
    even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2].astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) >> 2).astype(np.uint8)


def save(pixels: np.ndarray, name: str) -> dict[str, object]:
    """Write a PNG and return its row of the manifest."""
    Image.fromarray(pixels).save(OUTPUT / name, optimize=True)
    return {"file": name, "shape": list(pixels.shape), "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}


def main() -> None:
    """Write every asset and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion_mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    args = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    photos = Path(skimage.__file__).parent / "data"
    manifest: dict[str, object] = {}
    for split, (prefix, first, per_class) in GARMENTS.items():
        sheet = save(atlas(garments(args.fashion_mnist, prefix, first, per_class)), f"garments_{split}.png")
        manifest[split] = {"garments": sheet, "per_class": per_class}
    rows = []
    for name, halvings in BACKGROUNDS.items():
        pixels = np.asarray(Image.open(photos / name))
        for _ in range(halvings):
            pixels = halve(pixels)
        rows.append(save(pixels, f"background_{Path(name).stem}.png"))
    manifest["backgrounds"] = rows
    (OUTPUT / "assets.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

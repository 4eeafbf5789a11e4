"""Edges of a label map, for networks that learn them (``edge=True`` of a dataset)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def binary_edge(label: np.ndarray, num_classes: int, radius: int = 2) -> np.ndarray:
    """Return which pixels are near a border between classes: uint8 ``[H, W]`` of 0 and 1.

    A pixel is on an edge when, for the mask of some class, it lies within ``radius`` pixels (Euclidean) of the
    mask's border, on either side. Beyond the image everything is outside of every mask. Labels that are no class
    (the ignored one) have no edge of their own.
    """
    edge = np.zeros(label.shape, bool)
    for number in range(num_classes):
        mask = label == number
        if not mask.any():
            continue
        framed = np.pad(mask, 1)
        distance = ndimage.distance_transform_edt(framed) + ndimage.distance_transform_edt(~framed)
        edge |= distance[1:-1, 1:-1] <= radius
    return edge.astype(np.uint8)

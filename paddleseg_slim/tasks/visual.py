"""Pictures of label maps: the pseudo-colours of PASCAL VOC that PaddleSeg uses, and overlays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_slim.errors import UserError


def colour_map(custom: Sequence[int] | None = None) -> np.ndarray:
    """256 colours, uint8 ``[256, 3]``, RGB: the bits of the class number plus one spread over the channels.

    Args:
        custom: values R G B R G B ... that replace those of the first classes.

    Raises:
        UserError: their number is not a multiple of three, or one is not in 0 to 255.
    """
    numbers = np.arange(1, 257)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel)) & 1) << (7 - bit)
    if custom:
        if len(custom) % 3 or len(custom) > 768 or min(custom) < 0 or max(custom) > 255:
            raise UserError(f"custom_color has {len(custom)} values.", "Give R G B for each class, each 0 to 255.")
        colours[: len(custom) // 3] = np.reshape(custom, (-1, 3))
    return colours.astype(np.uint8)


def blend(picture: np.ndarray, classes: np.ndarray, colours: np.ndarray, weight: float = 0.6) -> np.ndarray:
    """Lay the colours of ``classes`` over ``picture``.

    Args:
        picture: uint8 ``[H, W, 3]``.
        classes: uint8 ``[H, W]``.
        colours: see `colour_map`, in the channel order of ``picture``.
        weight: share of the picture.
    """
    mixed = picture.astype(np.float32) * weight + colours[classes].astype(np.float32) * (1 - weight)
    return (mixed + 0.5).astype(np.uint8)

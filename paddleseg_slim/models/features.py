"""What a head takes from a backbone, where it takes a fixed number of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.models.layers import feature_channels


def exactly(count: int, backbone: nn.Layer, indices: Sequence[int]) -> list[int]:
    """Return the channels of the ``count`` feature maps that a head takes from its backbone.

    Raises:
        UserError: ``indices`` are more or fewer, or the backbone has no such feature map.
    """
    if len(indices) != count:
        raise UserError(
            f"This model takes {count} feature maps, backbone_indices is {list(indices)}.", f"Name {count}."
        )
    return feature_channels(backbone, indices)

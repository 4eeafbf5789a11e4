"""Initial values of a model's parameters: random ones, or those of a ``pretrained`` file."""

from __future__ import annotations

from typing import Any

from paddle import nn


def init_convs(layer: nn.Layer, initializer: Any) -> None:
    """Draw the weights of every ``Conv2D`` inside ``layer`` from ``initializer``; biases keep their zeros.

    Args:
        layer: a model or a part of one.
        initializer: of ``paddle.nn.initializer``: ``Normal(std=0.001)``, ``KaimingNormal()``.
    """
    for sublayer in layer.sublayers():
        if isinstance(sublayer, nn.Conv2D):
            initializer(sublayer.weight)


def load_pretrained(layer: nn.Layer, pretrained: str | None) -> None:
    """Give ``layer`` the weights of the file ``pretrained``; None leaves it as it is.

    Heads for another number of classes keep their random values (and a warning names them): that is what fine-tuning
    on other classes needs.

    Args:
        layer: a backbone or a whole model.
        pretrained: a path, or a URL (of a file or an archive) that is downloaded once, or None.

    Raises:
        UserError: the file is missing, unreadable or holds the weights of another model.
    """
    if pretrained is None:
        return
    from paddleseg_slim.train.weights import load_weights  # only who asks for weights needs the readers

    load_weights(layer, pretrained, reset_head=True)

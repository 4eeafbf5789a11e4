"""What the heads of GCNet and PSPNet share: classes from the last features in context, and an auxiliary head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_slim.models.layers import AuxLayer, Conv2D


class ContextHead(nn.Layer, ABC):  # type: ignore[misc]
    """A head on two feature maps of a backbone; a subclass builds what `context` needs, then calls `add_classifiers`.

    The order is PaddleSeg's, and with it that of the parameters.

    Args:
        backbone_indices: which features the auxiliary head takes, and which the main one.
    """

    def __init__(self, backbone_indices: Sequence[int]) -> None:
        super().__init__()
        self.backbone_indices = tuple(backbone_indices)

    def add_classifiers(self, num_classes: int, auxiliary: int, channels: int, enable_auxiliary_loss: bool) -> None:
        """Add the classifiers.

        Args:
            num_classes: number of classes.
            auxiliary: channels of the features that the auxiliary head takes.
            channels: what `context` gives.
            enable_auxiliary_loss: whether there is an auxiliary head, in training and in evaluation.
        """
        self.dropout = nn.Dropout(0.1)
        self.conv = Conv2D(channels, num_classes, 1)
        if enable_auxiliary_loss:
            self.auxlayer = AuxLayer(auxiliary, auxiliary // 4, num_classes)
        self.enable_auxiliary_loss = enable_auxiliary_loss

    @abstractmethod
    def context(self, features: Tensor) -> Tensor:
        """The backbone's last features -> ``[N, channels, H, W]``, each position with what it knows of the others."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features of the backbone -> logits at their resolutions."""
        auxiliary, main = (features[index] for index in self.backbone_indices)
        logits = [self.conv(self.dropout(self.context(main)))]
        if self.enable_auxiliary_loss:
            logits.append(self.auxlayer(auxiliary))
        return logits

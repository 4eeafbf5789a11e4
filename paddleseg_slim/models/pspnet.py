"""PSPNet: pyramid pooling over the backbone's last features (Zhao et al. 2017, arXiv:1612.01105)."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_slim.models.context_head import ContextHead
from paddleseg_slim.models.features import exactly
from paddleseg_slim.models.layers import PPModule, resize_to, spatial_size
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class PSPNet(nn.Layer):
    """PSPNet.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns several feature maps and has ``feat_channels``.
        backbone_indices: which features the auxiliary head takes, and which the main one.
        pp_out_channels: channels after the pyramid pooling.
        bin_sizes: edges of the pooling grids.
        enable_auxiliary_loss: whether a second head gives a second output, in training and in evaluation.
        align_corners: of the resizing of features and logits.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (2, 3),
        pp_out_channels: int = 1024,
        bin_sizes: Sequence[int] = (1, 2, 3, 6),
        enable_auxiliary_loss: bool = True,
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        channels = exactly(2, backbone, backbone_indices)
        self.backbone = backbone
        self.head = PSPNetHead(
            num_classes,
            backbone_indices,
            channels,
            pp_out_channels,
            bin_sizes,
            enable_auxiliary_loss,
            align_corners,
        )
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``: main head, then the auxiliary one if there is one."""
        size = spatial_size(x)
        return [resize_to(logit, size, self.align_corners) for logit in self.head(self.backbone(x))]


class PSPNetHead(ContextHead):
    """Pyramid pooling."""

    def __init__(
        self,
        num_classes: int,
        backbone_indices: Sequence[int],
        backbone_channels: Sequence[int],
        pp_out_channels: int,
        bin_sizes: Sequence[int],
        enable_auxiliary_loss: bool,
        align_corners: bool,
    ) -> None:
        auxiliary, main = backbone_channels
        super().__init__(backbone_indices)
        self.psp_module = PPModule(main, pp_out_channels, bin_sizes, True, align_corners)
        self.add_classifiers(num_classes, auxiliary, pp_out_channels, enable_auxiliary_loss)

    def context(self, features: Tensor) -> Tensor:
        """``[N, main, H, W]`` -> ``[N, pp_out_channels, H, W]``."""
        pooled: Tensor = self.psp_module(features)
        return pooled

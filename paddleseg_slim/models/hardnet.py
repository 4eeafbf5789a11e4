"""FC-HarDNet: a U-shaped net of sparsely linked dense blocks (Chao et al. 2019, arXiv:1909.00948)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from paddleseg_slim.models.layers import Conv2D, ConvBNReLU, resize_to, spatial_size
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class HarDNet(nn.Layer):
    """FC-HarDNet-70 by its default arguments.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
        stem_channels: channels of the four convolutions before the encoder.
        ch_list: channels behind each block of the encoder.
        grmul: growth multiplier of a layer with more links, ``m`` in the paper.
        gr: growth of each block, ``k`` in the paper.
        n_layers: layers of each block.
        align_corners: of the resizing of features and logits.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        stem_channels: Sequence[int] = (16, 24, 32, 48),
        ch_list: Sequence[int] = (64, 96, 160, 224, 320),
        grmul: float = 1.7,
        gr: Sequence[int] = (10, 16, 18, 24, 32),
        n_layers: Sequence[int] = (4, 4, 8, 8, 8),
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        sources = (in_channels, *stem_channels)
        self.stem = nn.Sequential(
            *(
                ConvBNReLU(sources[i], sources[i + 1], 3, stride=stride, bias_attr=False)
                for i, stride in enumerate((1, 1, 2, 1))
            )
        )
        self.encoder = Encoder(stem_channels[-1], ch_list, gr, grmul, n_layers)
        self.decoder = Decoder(ch_list[-1], self.encoder.skip_channels, gr, grmul, n_layers, align_corners)
        self.cls_head = Conv2D(self.decoder.out_channels, num_classes, 1)
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``."""
        logit = self.cls_head(self.decoder(self.encoder(self.stem(x))))
        return [resize_to(logit, spatial_size(x), self.align_corners)]


class Encoder(nn.Layer):
    """Dense blocks, each followed by a 1x1 projection and, but for the last, by mean pooling of stride 2.

    Attributes:
        skip_channels: channels of each block's output.
    """

    def __init__(
        self, in_channels: int, ch_list: Sequence[int], gr: Sequence[int], grmul: float, n_layers: Sequence[int]
    ) -> None:
        super().__init__()
        self.skip_channels: list[int] = []
        self.blks = nn.LayerList()
        for i, out_channels in enumerate(ch_list):
            if i > 0:
                self.blks.append(nn.AvgPool2D(kernel_size=2, stride=2))
            block = HarDBlock(in_channels, gr[i], grmul, n_layers[i])
            self.skip_channels.append(block.out_channels)
            self.blks.append(block)
            self.blks.append(ConvBNReLU(block.out_channels, out_channels, 1, bias_attr=False))
            in_channels = out_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/2 -> the output of each block but the last, and the last projection's."""
        outputs = []
        for layer in self.blks:
            x = layer(x)
            if isinstance(layer, HarDBlock):
                outputs.append(x)
        return [*outputs[:-1], x]


class Decoder(nn.Layer):
    """Enlarge, join with the encoder's block of that size, halve the channels, dense block; from 1/32 up to 1/2."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: Sequence[int],
        gr: Sequence[int],
        grmul: float,
        n_layers: Sequence[int],
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.dense_blocks_up = nn.LayerList()
        self.conv1x1_up = nn.LayerList()
        for i in reversed(range(len(skip_channels) - 1)):
            joined = in_channels + skip_channels[i]
            block = HarDBlock(joined // 2, gr[i], grmul, n_layers[i])
            self.conv1x1_up.append(ConvBNReLU(joined, joined // 2, 1, bias_attr=False))
            self.dense_blocks_up.append(block)
            in_channels = block.out_channels
        self.out_channels = in_channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """What :class:`Encoder` returns -> features of the size of the first."""
        *skips, x = features
        for skip, reduce, block in zip(reversed(skips), self.conv1x1_up, self.dense_blocks_up):
            x = resize_to(x, spatial_size(skip), self.align_corners)
            x = block(reduce(paddle.concat([x, skip], axis=1)))
        return x


class HarDBlock(nn.Layer):
    """A harmonic dense block: layer ``n`` reads the layers ``n - 2^i`` for each ``2^i`` that divides ``n``.

    Args:
        base_channels: input channels.
        growth: channels of an odd layer.
        multiplier: of the channels, for each further link of a layer.
        depth: number of layers.

    Attributes:
        out_channels: channels of the odd layers and the last one, joined.
    """

    def __init__(self, base_channels: int, growth: int, multiplier: float, depth: int) -> None:
        super().__init__()
        self.links = [_links(n) for n in range(1, depth + 1)]
        widths = [base_channels] + [_width(len(links), growth, multiplier) for links in self.links]
        self.layers = nn.LayerList(
            [
                ConvBNReLU(sum(widths[source] for source in links), widths[n], 3, bias_attr=False)
                for n, links in enumerate(self.links, start=1)
            ]
        )
        self.kept = [n for n in range(1, depth + 1) if n % 2 == 1 or n == depth]
        self.out_channels = sum(widths[n] for n in self.kept)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, base, h, w]`` -> ``[N, out_channels, h, w]``."""
        outputs = [x]
        for links, layer in zip(self.links, self.layers):
            inputs = [outputs[source] for source in links]
            outputs.append(layer(inputs[0] if len(inputs) == 1 else paddle.concat(inputs, axis=1)))
        return paddle.concat([outputs[n] for n in self.kept], axis=1)


def _links(n: int) -> list[int]:
    """Layers that layer ``n`` reads, the farthest first."""
    return [n - (1 << i) for i in reversed(range(n.bit_length())) if n % (1 << i) == 0]


def _width(links: int, growth: int, multiplier: float) -> int:
    """Channels of a layer with so many links, an even number."""
    width = float(growth)
    for _ in range(links - 1):
        width *= multiplier
    return int(width + 1) // 2 * 2

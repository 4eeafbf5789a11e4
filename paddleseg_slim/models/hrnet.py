"""HRNet: branches at 1/4, 1/8, 1/16 and 1/32 side by side, exchanged many times (Wang et al., arXiv:1908.07919)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.models.attention import PolarizedSelfAttentionModule
from paddleseg_slim.models.layers import ConvBN, ConvBNReLU, Padding, resize_to, spatial_size
from paddleseg_slim.models.weights import init_convs, load_pretrained
from paddleseg_slim.registry import BACKBONES


class HRNet(nn.Layer):
    """HRNet as a backbone with one feature map, all branches joined at 1/4.

    Args:
        in_channels: channels of the image.
        pretrained: path or URL of weights.
        stage1_num_modules: 1; the first stage is one row of bottlenecks.
        stage1_num_blocks: bottlenecks of the first stage.
        stage1_num_channels: inner channels of the first stage; it puts out four times as many.
        stage2_num_modules: rounds of "filter each branch, exchange" of the second stage (two branches).
        stage2_num_blocks: blocks of each branch in one round.
        stage2_num_channels: channels of each branch.
        stage3_num_modules: the same for the third stage (three branches).
        stage3_num_blocks: the same for the third stage.
        stage3_num_channels: the same for the third stage.
        stage4_num_modules: the same for the fourth stage (four branches).
        stage4_num_blocks: the same for the fourth stage.
        stage4_num_channels: the same for the fourth stage.
        has_se: whether each block weighs its channels (squeeze and excitation).
        align_corners: of the resizing of features.
        padding_same: whether 3x3 convolutions pad by the rule "same"; otherwise by one pixel on each side.
        use_psa: whether basic blocks hold polarized self-attention.

    Attributes:
        feat_channels: channels of each feature map of the output.
    """

    def __init__(
        self,
        in_channels: int = 3,
        pretrained: str | None = None,
        stage1_num_modules: int = 1,
        stage1_num_blocks: Sequence[int] = (4,),
        stage1_num_channels: Sequence[int] = (64,),
        stage2_num_modules: int = 1,
        stage2_num_blocks: Sequence[int] = (4, 4),
        stage2_num_channels: Sequence[int] = (18, 36),
        stage3_num_modules: int = 4,
        stage3_num_blocks: Sequence[int] = (4, 4, 4),
        stage3_num_channels: Sequence[int] = (18, 36, 72),
        stage4_num_modules: int = 3,
        stage4_num_blocks: Sequence[int] = (4, 4, 4, 4),
        stage4_num_channels: Sequence[int] = (18, 36, 72, 144),
        has_se: bool = False,
        align_corners: bool = False,
        padding_same: bool = True,
        use_psa: bool = False,
    ) -> None:
        super().__init__()
        if stage1_num_modules != 1:
            raise UserError(f"HRNet: stage1_num_modules is {stage1_num_modules}.", "The first stage has 1 module.")
        padding: Padding = "same" if padding_same else 1
        self.align_corners = align_corners
        self.feat_channels = [sum(stage4_num_channels)]

        def stage(name: str, modules: int, blocks: Sequence[int], channels: Sequence[int]) -> Stage:
            return Stage(name, modules, blocks, channels, has_se, use_psa, align_corners, padding)

        self.conv_layer1_1 = ConvBNReLU(in_channels, 64, 3, padding, stride=2, bias_attr=False)
        self.conv_layer1_2 = ConvBNReLU(64, 64, 3, padding, stride=2, bias_attr=False)
        self.la1 = Layer1(64, stage1_num_channels[0], stage1_num_blocks[0], has_se, padding)
        self.tr1 = TransitionLayer("tr1", [4 * stage1_num_channels[0]], stage2_num_channels, padding)
        self.st2 = stage("st2", stage2_num_modules, stage2_num_blocks, stage2_num_channels)
        self.tr2 = TransitionLayer("tr2", stage2_num_channels, stage3_num_channels, padding)
        self.st3 = stage("st3", stage3_num_modules, stage3_num_blocks, stage3_num_channels)
        self.tr3 = TransitionLayer("tr3", stage3_num_channels, stage4_num_channels, padding)
        self.st4 = stage("st4", stage4_num_modules, stage4_num_blocks, stage4_num_channels)
        init_convs(self, nn.initializer.Normal(std=0.001))
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one feature map ``[N, sum(stage4_num_channels), H/4, W/4]``."""
        branches = [self.la1(self.conv_layer1_2(self.conv_layer1_1(x)))]
        for transition, stage in ((self.tr1, self.st2), (self.tr2, self.st3), (self.tr3, self.st4)):
            branches = stage(transition(branches))
        size = spatial_size(branches[0])
        smaller = [resize_to(branch, size, self.align_corners) for branch in branches[1:]]
        return [paddle.concat([branches[0], *smaller], axis=1)]


class Layer1(nn.Sequential):
    """The first stage: bottlenecks in a row, ``[N, in, h, w]`` -> ``[N, 4 * channels, h, w]``."""

    def __init__(self, in_channels: int, channels: int, blocks: int, has_se: bool, padding: Padding) -> None:
        super().__init__()
        for i in range(blocks):
            block = BottleneckBlock(in_channels if i == 0 else 4 * channels, channels, i == 0, has_se, padding)
            self.add_sublayer(f"bb_layer2_{i + 1}", block)


class TransitionLayer(nn.Layer):
    """Give each branch its channels for the next stage, and grow one more branch, half the size of the last.

    Args:
        name: of the layer, part of its parameters' names.
        in_channels: of each branch before.
        out_channels: of each branch after.
        padding: of 3x3 convolutions.
    """

    def __init__(self, name: str, in_channels: Sequence[int], out_channels: Sequence[int], padding: Padding) -> None:
        super().__init__()
        self.paths: list[tuple[int, str | None]] = []
        for i, channels in enumerate(out_channels):
            source = min(i, len(in_channels) - 1)
            stride = 1 if i < len(in_channels) else 2
            key = None
            if stride == 2 or in_channels[source] != channels:
                key = f"transition_{name}_layer_{i + 1}"
                conv = ConvBNReLU(in_channels[source], channels, 3, padding, stride=stride, bias_attr=False)
                self.add_sublayer(key, conv)
            self.paths.append((source, key))

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Branches of one stage -> those of the next, one more."""
        return [branches[source] if key is None else getattr(self, key)(branches[source]) for source, key in self.paths]


class Stage(nn.Sequential):
    """Rounds of :class:`HighResolutionModule` in a row; takes and gives a list of branches."""

    def __init__(
        self,
        name: str,
        modules: int,
        blocks: Sequence[int],
        channels: Sequence[int],
        has_se: bool,
        use_psa: bool,
        align_corners: bool,
        padding: Padding,
    ) -> None:
        super().__init__()
        for i in range(1, modules + 1):
            branches = Branches(f"{name}_{i}", blocks, channels, has_se, use_psa, padding)
            fuse = FuseLayers(f"{name}_{i}", channels, align_corners, padding)
            self.add_sublayer(f"stage_{name}_{i}", HighResolutionModule(branches, fuse))


class HighResolutionModule(nn.Layer):
    """One round: filter each branch by itself, then exchange."""

    def __init__(self, branches: Branches, fuse: FuseLayers) -> None:
        super().__init__()
        self.branches_func = branches
        self.fuse_func = fuse

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Branches -> branches of the same shapes."""
        return self.fuse_func(self.branches_func(branches))


class Branches(nn.Layer):
    """A row of basic blocks for each branch."""

    def __init__(
        self,
        name: str,
        blocks: Sequence[int],
        channels: Sequence[int],
        has_se: bool,
        use_psa: bool,
        padding: Padding,
    ) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        for i, (depth, width) in enumerate(zip(blocks, channels), start=1):
            keys = [f"bb_{name}_branch_layer_{i}_{j}" for j in range(1, depth + 1)]
            for key in keys:
                self.add_sublayer(key, BasicBlock(width, has_se, use_psa, padding))
            self.rows.append(keys)

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Branches -> branches of the same shapes."""
        outputs = []
        for x, keys in zip(branches, self.rows):
            for key in keys:
                x = getattr(self, key)(x)
            outputs.append(x)
        return outputs


class FuseLayers(nn.Layer):
    """Add to each branch all others: smaller ones projected and enlarged, larger ones by steps of stride 2."""

    def __init__(self, name: str, channels: Sequence[int], align_corners: bool, padding: Padding) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.steps: dict[tuple[int, int], list[str]] = {}
        count = len(channels)
        for target, source in ((i, j) for i in range(count) for j in range(count) if i != j):
            key = f"residual_{name}_layer_{target + 1}_{source + 1}"
            if source > target:
                self.steps[target, source] = [key]
                self.add_sublayer(key, ConvBN(channels[source], channels[target], 1, bias_attr=False))
                continue
            keys = [f"{key}_{k}" for k in range(1, target - source + 1)]
            self.steps[target, source] = keys
            for step in keys[:-1]:
                conv = ConvBNReLU(channels[source], channels[source], 3, padding, stride=2, bias_attr=False)
                self.add_sublayer(step, conv)
            last = ConvBN(channels[source], channels[target], 3, padding, stride=2, bias_attr=False)
            self.add_sublayer(keys[-1], last)

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Branches -> branches of the same shapes."""
        outputs = []
        for target, total in enumerate(branches):
            size = spatial_size(total)
            for source, x in enumerate(branches):
                if source == target:
                    continue
                for key in self.steps[target, source]:
                    x = getattr(self, key)(x)
                total = total + (resize_to(x, size, self.align_corners) if source > target else x)
            outputs.append(F.relu(total))
        return outputs


class BottleneckBlock(nn.Layer):
    """1x1, 3x3, 1x1 with a shortcut: ``[N, in, h, w]`` -> ``[N, 4 * channels, h, w]``."""

    def __init__(self, in_channels: int, channels: int, downsample: bool, has_se: bool, padding: Padding) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(in_channels, channels, 1, bias_attr=False)
        self.conv2 = ConvBNReLU(channels, channels, 3, padding, bias_attr=False)
        self.conv3 = ConvBN(channels, 4 * channels, 1, bias_attr=False)
        self.conv_down = ConvBN(in_channels, 4 * channels, 1, bias_attr=False) if downsample else None
        self.se = SELayer(4 * channels) if has_se else None

    def forward(self, x: Tensor) -> Tensor:
        """Filter and add the (projected) input."""
        y = self.conv3(self.conv2(self.conv1(x)))
        if self.se is not None:
            y = self.se(y)
        return F.relu(y + (x if self.conv_down is None else self.conv_down(x)))


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions with a shortcut; the shape stays."""

    def __init__(self, channels: int, has_se: bool, use_psa: bool, padding: Padding) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(channels, channels, 3, padding, bias_attr=False)
        self.deattn = PolarizedSelfAttentionModule(channels, channels) if use_psa else None
        self.conv2 = ConvBN(channels, channels, 3, padding, bias_attr=False)
        self.se = SELayer(channels) if has_se else None

    def forward(self, x: Tensor) -> Tensor:
        """Filter and add the input."""
        y = self.conv1(x)
        if self.deattn is not None:
            y = self.deattn(y)
        y = self.conv2(y)
        if self.se is not None:
            y = self.se(y)
        return F.relu(y + x)


class SELayer(nn.Layer):
    """Squeeze and excitation: weigh each channel by what the means of all tell (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Linear:
            bound = 1.0 / math.sqrt(inputs)
            return nn.Linear(inputs, outputs, weight_attr=nn.initializer.Uniform(-bound, bound))

        self.squeeze = linear(channels, channels // reduction)
        self.excitation = linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` -> ``[N, C, h, w]``."""
        means = paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        weights = F.sigmoid(self.excitation(F.relu(self.squeeze(means))))
        return x * paddle.unsqueeze(weights, [2, 3])


def _variant(
    name: str, width: int, stage1: tuple[int, int], modules: tuple[int, int, int], depth: int
) -> Callable[..., HRNet]:
    """Register an HRNet: ``stage1`` is (blocks, channels), ``modules`` the rounds, branch ``i`` has ``width * 2^i``."""
    widths = [width << i for i in range(4)]

    @BACKBONES.register(name)
    def build(
        in_channels: int = 3,
        pretrained: str | None = None,
        has_se: bool = False,
        align_corners: bool = False,
        padding_same: bool = True,
        use_psa: bool = False,
    ) -> HRNet:
        return HRNet(
            in_channels,
            pretrained,
            stage1_num_blocks=[stage1[0]],
            stage1_num_channels=[stage1[1]],
            stage2_num_modules=modules[0],
            stage2_num_blocks=[depth] * 2,
            stage2_num_channels=widths[:2],
            stage3_num_modules=modules[1],
            stage3_num_blocks=[depth] * 3,
            stage3_num_channels=widths[:3],
            stage4_num_modules=modules[2],
            stage4_num_blocks=[depth] * 4,
            stage4_num_channels=widths,
            has_se=has_se,
            align_corners=align_corners,
            padding_same=padding_same,
            use_psa=use_psa,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build {name}; arguments as of :class:`HRNet`."
    return build


HRNet_W18_Small_V1 = _variant("HRNet_W18_Small_V1", 16, (1, 32), (1, 1, 1), depth=2)
HRNet_W18_Small_V2 = _variant("HRNet_W18_Small_V2", 18, (2, 64), (1, 3, 2), depth=2)
HRNet_W18 = _variant("HRNet_W18", 18, (4, 64), (1, 4, 3), depth=4)
HRNet_W30 = _variant("HRNet_W30", 30, (4, 64), (1, 4, 3), depth=4)
HRNet_W32 = _variant("HRNet_W32", 32, (4, 64), (1, 4, 3), depth=4)
HRNet_W40 = _variant("HRNet_W40", 40, (4, 64), (1, 4, 3), depth=4)
HRNet_W44 = _variant("HRNet_W44", 44, (4, 64), (1, 4, 3), depth=4)
HRNet_W48 = _variant("HRNet_W48", 48, (4, 64), (1, 4, 3), depth=4)
HRNet_W60 = _variant("HRNet_W60", 60, (4, 64), (1, 4, 3), depth=4)
HRNet_W64 = _variant("HRNet_W64", 64, (4, 64), (1, 4, 3), depth=4)

"""Mix Transformer, the encoder of SegFormer (Xie et al. 2021, arXiv:2105.15203, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.layers import Conv2D, spatial_size
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import BACKBONES


class MixVisionTransformer(nn.Layer):
    """Four stages of transformer blocks on ever coarser, overlapping patches.

    PaddleSeg's ``img_size``, ``patch_size`` and ``num_classes``, which change nothing there, are left out.

    Args:
        in_channels: channels of the image.
        embed_dims: channels of each stage.
        num_heads: attention heads of each stage.
        mlp_ratios: hidden channels of each stage's MLP, relative to its channels.
        qkv_bias: whether query, key and value have a bias.
        qk_scale: factor of the attention scores; None is one over the root of a head's channels.
        drop_rate: dropout after attention and in the MLP.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: share of samples that skip the last block (stochastic depth); it grows from 0 over the blocks.
        norm_epsilon: epsilon of the LayerNorms before and after the blocks.
        depths: blocks of each stage.
        sr_ratios: how much smaller, along an edge, the map of keys and values is than that of queries.
        pretrained: path or URL of weights of the backbone.

    Attributes:
        feat_channels: channels of the four feature maps.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_epsilon: float = 1e-5,
        depths: Sequence[int] = (3, 4, 6, 3),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.feat_channels = list(embed_dims)
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        channels = in_channels
        for stage, dim in enumerate(embed_dims):
            patch, stride = (7, 4) if stage == 0 else (3, 2)
            self.add_sublayer(f"patch_embed{stage + 1}", OverlapPatchEmbed(channels, dim, patch, stride))
            blocks = [
                Block(
                    dim,
                    num_heads[stage],
                    int(dim * mlp_ratios[stage]),
                    sr_ratios[stage],
                    next(rates),
                    norm_epsilon,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    attn_drop=attn_drop_rate,
                    drop=drop_rate,
                )
                for _ in range(depths[stage])
            ]
            self.add_sublayer(f"block{stage + 1}", nn.LayerList(blocks))
            self.add_sublayer(f"norm{stage + 1}", nn.LayerNorm(dim, epsilon=norm_epsilon))
            channels = dim
        self.apply(_init_weights)
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> features at 1/4, 1/8, 1/16 and 1/32."""
        features = []
        for stage in range(1, 5):
            tokens, size = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                tokens = block(tokens, size)
            x = to_map(getattr(self, f"norm{stage}")(tokens), size)
            features.append(x)
        return features


def to_tokens(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` -> ``[N, H*W, C]``."""
    return x.flatten(2).transpose([0, 2, 1])


def to_map(tokens: Tensor, size: Any) -> Tensor:
    """``[N, H*W, C]`` -> ``[N, C, H, W]``; ``size`` is what `spatial_size` returned."""
    return tokens.transpose([0, 2, 1]).reshape([0, tokens.shape[2], size[0], size[1]])


def _init_weights(layer: nn.Layer) -> None:
    """Initial values of one layer: those of the authors' code."""
    if isinstance(layer, nn.Linear):
        nn.initializer.TruncatedNormal(std=0.02)(layer.weight)
    elif isinstance(layer, nn.Conv2D):
        out_channels, _, height, width = layer.weight.shape
        nn.initializer.Normal(std=math.sqrt(2 * layer._groups / (out_channels * height * width)))(layer.weight)
    if isinstance(layer, (nn.Linear, nn.Conv2D)) and layer.bias is not None:
        nn.initializer.Constant(0.0)(layer.bias)


class OverlapPatchEmbed(nn.Layer):
    """Patches, larger than their stride, as tokens: a convolution and a LayerNorm."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = Conv2D(in_channels, dim, patch_size, stride, patch_size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """``[N, in, H, W]`` -> tokens ``[N, h*w, dim]`` and their height and width."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), spatial_size(x)


class Block(nn.Layer):
    """Attention and MLP, each behind a LayerNorm and beside a shortcut.

    ``drop_path`` is the probability that a sample takes the shortcuts alone, in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        sr_ratio: int,
        drop_path: float,
        norm_epsilon: float,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        drop: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=norm_epsilon)
        self.attn = Attention(dim, num_heads, sr_ratio, qkv_bias, qk_scale, attn_drop, drop)
        self.drop_path = nn.Dropout(drop_path, axis=0)  # one draw for each sample
        self.norm2 = nn.LayerNorm(dim, epsilon=norm_epsilon)
        self.mlp = Mlp(dim, mlp_dim, drop)

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """``[N, H*W, dim]`` -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class Attention(nn.Layer):
    """Self-attention whose keys and values come from a map reduced ``sr_ratio`` times along each edge."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = qk_scale or self.head_dim**-0.5
        self.q = nn.Linear(dim, dim, bias_attr=None if qkv_bias else False)
        self.kv = nn.Linear(dim, dim * 2, bias_attr=None if qkv_bias else False)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr_ratio = sr_ratio
        if sr_ratio > 1:
            self.sr = Conv2D(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """``[N, H*W, dim]`` -> the same shape."""
        heads = [self.num_heads, self.head_dim]
        query = self.q(x).reshape([0, -1, *heads]).transpose([0, 2, 1, 3])
        if self.sr_ratio > 1:
            reduced = self.norm(to_tokens(self.sr(to_map(x, size))))
        else:
            reduced = x
        key_value = self.kv(reduced).reshape([0, -1, 2, *heads]).transpose([2, 0, 3, 1, 4])
        key, value = key_value[0], key_value[1]  # [N, heads, h*w, head_dim]
        scores = query.matmul(key.transpose([0, 1, 3, 2])) * self.scale
        attention = self.attn_drop(F.softmax(scores, axis=-1))
        joined = attention.matmul(value).transpose([0, 2, 1, 3]).reshape([0, -1, self.num_heads * self.head_dim])
        return self.proj_drop(self.proj(joined))


class Mlp(nn.Layer):
    """Mix-FFN: a 3x3 depthwise convolution between two linear layers tells the tokens where they are."""

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = DWConv(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """``[N, H*W, dim]`` -> the same shape."""
        x = self.drop(F.gelu(self.dwconv(self.fc1(x), size)))
        return self.drop(self.fc2(x))


class DWConv(nn.Layer):
    """3x3 depthwise convolution of tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = Conv2D(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """``[N, H*W, dim]`` -> the same shape."""
        return to_tokens(self.dwconv(to_map(x, size)))


def _variant(name: str, embed_dims: tuple[int, ...], depths: tuple[int, ...]) -> Callable[..., MixVisionTransformer]:
    def build(
        in_channels: int = 3,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        pretrained: str | None = None,
    ) -> MixVisionTransformer:
        return MixVisionTransformer(
            in_channels,
            embed_dims,
            num_heads=(1, 2, 5, 8),
            qkv_bias=True,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=0.1,
            norm_epsilon=1e-6,
            depths=depths,
            pretrained=pretrained,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build {name}, {depths} blocks of {embed_dims} channels; arguments as of `MixVisionTransformer`."
    return BACKBONES.register()(build)


_WIDE = (64, 128, 320, 512)
MixVisionTransformer_B0 = _variant("MixVisionTransformer_B0", (32, 64, 160, 256), (2, 2, 2, 2))
MixVisionTransformer_B1 = _variant("MixVisionTransformer_B1", _WIDE, (2, 2, 2, 2))
MixVisionTransformer_B2 = _variant("MixVisionTransformer_B2", _WIDE, (3, 4, 6, 3))

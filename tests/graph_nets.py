"""Small networks that between them hold what segmentation models are made of, and inputs for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.static import InputSpec

SPEC = [InputSpec([None, 3, None, None], "float32", "x")]


class ConvBN(nn.Layer):
    def __init__(self, cin: int, cout: int, stride: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2D(cin, cout, 3, stride, 1, groups=groups, bias_attr=None if bias else False)
        self.bn = nn.BatchNorm2D(cout)

    def forward(self, x: Any) -> Any:
        return F.relu(self.bn(self.conv(x)))


class TinySeg(nn.Layer):
    """Stem, depthwise block, pyramid pooling, attention, resize by shape, an auxiliary head in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 8, 2)
        self.block = nn.Sequential(ConvBN(8, 8, groups=8, bias=False), ConvBN(8, 12, 2))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2D(1), nn.Conv2D(12, 12, 1), nn.Sigmoid())
        self.head = nn.Conv2D(20, 4, 1)
        self.aux = nn.Conv2D(8, 4, 1)
        self.drop = nn.Dropout2D(0.3)

    def forward(self, x: Any) -> Any:
        low = self.stem(x)
        deep = self.block(low)
        deep = deep * self.gate(deep)
        up = F.interpolate(deep, size=low.shape[2:], mode="bilinear", align_corners=False)
        logits = self.head(self.drop(paddle.concat([low, up], axis=1)))
        logits = F.interpolate(logits, size=[x.shape[2], x.shape[3]], mode="bilinear")
        return {"logits": logits, "extra": (self.aux(low), None)} if self.training else {"logits": logits, "extra": ()}


class TinyAttention(nn.Layer):
    """Patches, layer norm, multi-head attention, GELU, stochastic depth, tokens back to an image."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2D(3, width, 8, 8)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.heads = heads

    def forward(self, x: Any) -> Any:
        x = self.patch(x)
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose([0, 2, 1])
        qkv = self.qkv(self.norm(tokens)).reshape([n, h * w, 3, self.heads, c // self.heads])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)
        weights = F.softmax(q @ k.transpose([0, 1, 3, 2]) * (c // self.heads) ** -0.5, axis=-1)
        mixed = (weights @ v).transpose([0, 2, 1, 3]).reshape([n, h * w, c])
        if self.training:
            keep = (paddle.rand([n, 1, 1]) < 0.8).astype("float32")
            mixed = mixed / 0.8 * keep
        tokens = tokens + mixed
        return (tokens + self.mlp(tokens)).transpose([0, 2, 1]).reshape([n, c, h, w])


class TinyDecoder(nn.Layer):
    """Unpooling by indices, transposed convolution, pixel shuffle, padding, slices, channel shuffle, argmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2D(2, 2, return_mask=True)
        self.unpool = nn.MaxUnPool2D(2, 2)
        self.up = nn.Conv2DTranspose(8, 8, 4, 2, 1, groups=2)
        self.prelu = nn.PReLU(8)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Any) -> Any:
        x = F.hardswish(self.conv(x))
        small, mask = self.pool(x)
        same = self.unpool(small, mask)
        big = self.norm(self.prelu(self.up(small)))
        left, right = paddle.split(big, 2, axis=1)
        n, c, h, w = big.shape
        shuffled = big.reshape([n, 2, c // 2, h, w]).transpose([0, 2, 1, 3, 4]).reshape([n, c, h, w])
        padded = F.pad(same[:, :4], [1, 1, 0, 2], mode="reflect")[:, ::2, :-2, 1:-1]
        mix = paddle.concat([left * right, shuffled[:, 1:5], padded], axis=1)
        spatial = paddle.concat([mix.mean(1, keepdim=True), mix.max(1, keepdim=True)], 1)
        return [F.pixel_shuffle(mix[:, :8], 2), spatial, paddle.argmax(big, axis=1)]


class TwoInputs(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, x: Any, y: Any) -> Any:
        return self.a(x) * F.sigmoid(self.b(y))


class Classic(nn.Layer):
    """What Paddle can still write in its old format."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.pool = nn.Conv2D(3, 8, 3, 2, 1), nn.BatchNorm2D(8), nn.MaxPool2D(2, 2)
        self.depthwise, self.linear = nn.Conv2D(8, 8, 3, groups=8), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Any) -> Any:
        x = self.pool(F.relu(self.bn(self.conv(x))))
        return self.linear(self.drop(self.depthwise(x).mean([2, 3])))


TINY = {"seg": TinySeg, "attention": TinyAttention, "decoder": TinyDecoder}


def _set_value(x: Any) -> Any:
    y = x * 2
    y[:, 1, 2:] = x[:, 0, 2:]
    y[:, 0] = 3.0
    return y


CALLS: dict[str, Any] = {
    "conv2d_transpose": lambda x: F.conv2d_transpose(x, paddle.ones([3, 2, 3, 3]), stride=2, output_padding=1),
    "depthwise_transpose": lambda x: F.conv2d_transpose(x, paddle.ones([3, 1, 2, 2]), stride=2, groups=3),
    "split_with_num": lambda x: paddle.concat(paddle.split(x, 2, axis=2)[::-1], axis=3),
    "split": lambda x: paddle.split(x, [10, -1], axis=2)[1],
    "strided_slice": lambda x: x[:, :, ::2, 1:-1:3],
    "slice_of_shape": lambda x: x[:, :, : x.shape[2] // 2],
    "pad": lambda x: F.pad(x, [0, 0, 1, 1, 2, 0, 0, 1], value=0.5),
    "pad3d": lambda x: F.pad(x, [1, 2, 3, 4], mode="replicate"),
    "argmin": lambda x: paddle.argmin(x, axis=-1, keepdim=True),
    "flat_argmax": lambda x: paddle.argmax(x),
    "topk": lambda x: paddle.topk(x, 2, axis=1)[1],
    "expand": lambda x: x.mean([2, 3], keepdim=True).expand([-1, -1, x.shape[3], 4]),
    "tile": lambda x: paddle.tile(x.sum(-1, keepdim=True), [1, 1, 1, 3]),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "unfold": lambda x: F.unfold(x, 3, paddings=1),
    "grid": lambda x: F.grid_sample(x, F.affine_grid(paddle.eye(2, 3).expand([x.shape[0], 2, 3]), x.shape)),
    "positions": lambda x: x + paddle.arange(x.shape[3], dtype="float32"),
    "ones": lambda x: x * paddle.ones([1, 1, x.shape[2], 1]),
    "full_like": lambda x: paddle.full_like(x, 3.0) - x,
    "where": lambda x: paddle.where(x > 0, x, paddle.zeros_like(x)),
    "one_hot": lambda x: F.one_hot(paddle.argmax(x, axis=1), 3),
    "norms": lambda x: F.normalize(x, axis=1) + F.instance_norm(x),
    "clip": lambda x: paddle.clip(x, -0.5, 0.5) + F.leaky_relu(x, 0.1) + F.swish(x) + F.hardsigmoid(x),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest") * 2,
    "bicubic": lambda x: F.interpolate(x, size=[20, 30], mode="bicubic", align_corners=True),
    "einsum": lambda x: paddle.einsum("nchw,ncij->nhi", x, x[:, :, :4, :4]),
    "cumsum": lambda x: paddle.cumsum(x, axis=2).flip([3]).roll(1, 2),
    "gather": lambda x: paddle.gather(x, paddle.to_tensor([2, 0]), axis=1),
    "stack": lambda x: paddle.stack([x, x * 2], axis=1).unbind(2)[1].squeeze(1),
    "logsumexp": lambda x: paddle.logsumexp(x, axis=[1, 2]) + paddle.prod(x[:, :, 0], axis=1) + x.std([1, 2]),
    "mean_of_ratio": lambda x: x.sum([2, 3]) / (x.shape[2] * x.shape[3]),
    "ceil_of_shape": lambda x: F.pad(x, [0, 0, 0, math.ceil(x.shape[2] / 7) * 7 - x.shape[2]]),
    "host_numbers": lambda x: x * (x.shape[2] ** 0.5) + max(x.shape[3] // 3, 2) + min(x.shape[2] % 7, 5),
    "expand_as": lambda x: x.mean([2, 3], keepdim=True).expand_as(x) + paddle.add_n([x, x * 2, x]),
    "set_value": _set_value,
    "big_constant": lambda x: x[:, :1, :1, :1] * paddle.assign(np.arange(100, dtype="float32")),
    "meshgrid": lambda x: sum(paddle.meshgrid(paddle.arange(4), paddle.arange(6))).astype("float32") * x.mean(),
}


class Call(nn.Layer):
    """One function of `CALLS` as a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = CALLS[name]

    def forward(self, x: Any) -> Any:
        return self.function(x)


def image(batch: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> Any:
    data = np.random.default_rng(seed).standard_normal((batch, 3, height, width))
    return paddle.to_tensor(data.astype("float32"))


def seeded(factory: Any, seed: int = 1) -> Any:
    paddle.seed(seed)
    return factory()


class ConvBNLeaky(nn.Layer):
    """Convolution, normalisation, leaky ReLU: what YOLOv3's neck and head are made of."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2D(cin, cout, kernel, stride, padding, groups=groups, bias_attr=False)
        self.norm = nn.BatchNorm2D(cout)

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(self.norm(self.conv(x)), 0.1)


class MobileNetV1(nn.Layer):
    """Depthwise separable blocks; features at strides 8, 16 and 32."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = ConvBNLeaky(3, width, stride=2)
        plan = [(1, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2)]
        self.blocks = nn.LayerList(
            nn.Sequential(
                ConvBNLeaky(width * cin, width * cin, stride=stride, groups=width * cin),
                ConvBNLeaky(width * cin, width * cout, 1),
            )
            for cin, cout, stride in plan
        )
        self.widths = [8 * width, 16 * width, 32 * width]

    def forward(self, x: Any) -> list[Any]:
        x = self.stem(x)
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in (4, 6, 7):
                features.append(x)
        return features


class YOLOv3(nn.Layer):
    """YOLOv3 on MobileNetV1 (Redmon & Farhadi 2018): three scales, upsampled and concatenated; boxes when evaluated."""

    anchors = ([(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)])

    def __init__(self, classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = MobileNetV1(width)
        small, middle, large = self.backbone.widths
        self.blocks = nn.LayerList([self._block(large, 32), self._block(middle + 16, 24), self._block(small + 12, 16)])
        self.routes = nn.LayerList([ConvBNLeaky(32, 16, 1), ConvBNLeaky(24, 12, 1)])
        self.heads = nn.LayerList([nn.Conv2D(cin, 3 * (5 + classes), 1) for cin in (32, 24, 16)])

    @staticmethod
    def _block(cin: int, cout: int) -> nn.Layer:
        return nn.Sequential(ConvBNLeaky(cin, cout, 1), ConvBNLeaky(cout, 2 * cout), ConvBNLeaky(2 * cout, cout, 1))

    def forward(self, x: Any) -> Any:
        outputs, route = [], None
        for index, feature in enumerate(reversed(self.backbone(x))):
            if route is not None:
                route = F.interpolate(self.routes[index - 1](route), scale_factor=2.0, mode="nearest")
                feature = paddle.concat([route, feature], axis=1)
            route = self.blocks[index](feature)
            outputs.append(self.heads[index](route))
        if self.training:
            return outputs
        decoded = [self._decode(out, 32 >> i, self.anchors[2 - i]) for i, out in enumerate(outputs)]
        boxes, scores = zip(*decoded)
        return paddle.concat(boxes, axis=1), paddle.concat(scores, axis=1)

    def _decode(self, out: Any, stride: int, anchors: list[tuple[int, int]]) -> tuple[Any, Any]:
        n, _, h, w = out.shape
        out = out.reshape([n, 3, 5 + self.classes, h, w]).transpose([0, 1, 3, 4, 2])
        rows, columns = paddle.meshgrid(paddle.arange(h, dtype="float32"), paddle.arange(w, dtype="float32"))
        centres = (F.sigmoid(out[..., :2]) + paddle.stack([columns, rows], axis=-1)) * stride
        sizes = paddle.exp(out[..., 2:4]) * paddle.to_tensor(anchors, dtype="float32").reshape([1, 3, 1, 1, 2])
        boxes = paddle.concat([centres - sizes / 2, centres + sizes / 2], axis=-1).reshape([n, -1, 4])
        scores = F.sigmoid(out[..., 4:5]) * F.sigmoid(out[..., 5:])
        return boxes, scores.reshape([n, -1, self.classes])


class ESEAttention(nn.Layer):
    """Effective squeeze and excitation (Lee & Park 2020) as PP-YOLOE's head uses it (Xu et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1)
        self.conv = nn.Conv2D(channels, channels, 1, bias_attr=False)
        self.norm = nn.BatchNorm2D(channels)

    def forward(self, feature: Any, pooled: Any) -> Any:
        return F.silu(self.norm(self.conv(feature * F.sigmoid(self.fc(pooled)))))


class PPYOLOE(nn.Layer):
    """A head like PP-YOLOE's: ESE attention, distribution focal loss read out by a fixed convolution, no anchors."""

    bins = 8

    def __init__(self, classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = MobileNetV1(width)
        widths = self.backbone.widths[::-1]
        self.class_stems = nn.LayerList(ESEAttention(channels) for channels in widths)
        self.box_stems = nn.LayerList(ESEAttention(channels) for channels in widths)
        self.class_heads = nn.LayerList(nn.Conv2D(channels, classes, 3, padding=1) for channels in widths)
        self.box_heads = nn.LayerList(nn.Conv2D(channels, 4 * (self.bins + 1), 3, padding=1) for channels in widths)
        self.project = nn.Conv2D(self.bins + 1, 1, 1, bias_attr=False)
        self.project.weight.set_value(paddle.arange(self.bins + 1, dtype="float32").reshape([1, -1, 1, 1]))
        self.project.weight.stop_gradient = True

    def forward(self, x: Any) -> Any:
        scores, distances, points, strides = [], [], [], []
        for index, feature in enumerate(reversed(self.backbone(x))):
            n, _, h, w = feature.shape
            pooled = F.adaptive_avg_pool2d(feature, (1, 1))
            logits = self.class_heads[index](self.class_stems[index](feature, pooled) + feature)
            box = self.box_heads[index](self.box_stems[index](feature, pooled))
            scores.append(F.sigmoid(logits).reshape([n, self.classes, h * w]).transpose([0, 2, 1]))
            if self.training:
                distances.append(box.flatten(2).transpose([0, 2, 1]))
                continue
            box = box.reshape([n, 4, self.bins + 1, h * w]).transpose([0, 2, 3, 1])
            distances.append(self.project(F.softmax(box, axis=1)).squeeze(1))
            stride = 32 >> index
            rows, columns = paddle.meshgrid(paddle.arange(h, dtype="float32"), paddle.arange(w, dtype="float32"))
            points.append((paddle.stack([columns, rows], axis=-1).reshape([-1, 2]) + 0.5) * stride)
            strides.append(paddle.full([h * w, 1], stride, dtype="float32"))
        joint = {"scores": paddle.concat(scores, axis=1)}
        if self.training:
            return {**joint, "distributions": paddle.concat(distances, axis=1)}
        centre = paddle.concat(points).unsqueeze(0)
        near, far = (paddle.concat(distances, axis=1) * paddle.concat(strides)).chunk(2, axis=-1)
        return {**joint, "boxes": paddle.concat([centre - near, centre + far], axis=-1)}


DETECTORS = {"yolov3_mobilenet_v1": YOLOv3, "ppyoloe_head": PPYOLOE}

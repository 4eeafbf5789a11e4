"""Fashion scenes: real garments on real backgrounds with an exact mask, drawn in integers from a number.

A scene is a pure function of ``(seed, split, index, size)``: the same bytes on every machine. So there is no OpenCV
here (its warps differ between versions), no floating point, and the random numbers are the raw output of PCG64, which
NumPy keeps stable, unlike the methods of its generators.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from paddleseg_slim.data.fashion import assets

CANVAS = 128
"""The canvas side to which the item scale refers; on others the items grow with the shorter side."""
MIN_SCALE, MAX_SCALE = 460, 820  # of a 28-pixel garment on the 128 canvas, in 1/256: 1.8 and 3.2
MAX_ANGLE = 71  # in 1/1024 of a turn: 25 degrees to either side
TURN = 1024
PAD = 2  # empty pixels around a garment, so that its edge can be interpolated

# class numbers of Fashion-MNIST, by kind of garment, and how often each kind is drawn (in 12)
KINDS = {"top": (0, 2, 4, 6), "trousers": (1,), "dress": (3,), "footwear": (5, 7, 9), "bag": (8,)}
_KIND_OF_DRAW = ("top",) * 3 + ("trousers",) * 2 + ("dress",) * 2 + ("footwear",) * 3 + ("bag",) * 2

_CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))
_SINE = [round(math.sin(2 * math.pi * step / TURN) * 16384) for step in range(TURN)]


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        label: uint8 ``[H, W]``: 0 background, 1 + Fashion-MNIST's class number for a garment pixel.
        instance: uint8 ``[H, W]``: 0 background, 1, 2, ... the garments from back to front.
        classes: uint8 ``[K]``, Fashion-MNIST's class number of each garment that can be seen.
        boxes: int32 ``[K, 4]``, x0, y0, x1, y1 around its visible pixels, x1 and y1 exclusive.
    """

    image: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray


class _Draws:
    """Random integers from the raw stream of PCG64."""

    def __init__(self, *key: int) -> None:
        self._raw = iter(np.random.PCG64(np.random.SeedSequence(key)).random_raw(160).tolist())

    def below(self, bound: int) -> int:
        return ((next(self._raw) >> 32) * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + self.below(high - low + 1)


@dataclass(frozen=True)
class _Stock:
    """The garments of a split, ready to be drawn.

    Attributes:
        packed: uint32 ``[N, 32 * 32]``: intensity in the low half of a number, cover (0 to 255) in the high half.
        extent: int64 ``[N, 2]``: how far a garment reaches from the centre of its image, vertically and horizontally.
        per_class: how many garments there are of each class.
    """

    packed: np.ndarray
    extent: np.ndarray
    per_class: int


def _soften(masks: np.ndarray) -> np.ndarray:
    """Cover of each pixel, 0 to 255: the masks smoothed by (1, 6, 1) / 8 along both axes, against frills."""
    cover = masks.astype(np.uint16)
    for axis in (1, 2):
        cover = np.roll(cover, 1, axis) + 6 * cover + np.roll(cover, -1, axis)
    return (cover * 255 + 32) // 64


@functools.lru_cache(maxsize=3)
def _stock(split: str) -> _Stock:
    """Pack the garments of a split.

    Outside the mask the intensity of the nearest garment pixel goes on for one pixel, so that edges do not darken.
    """
    garments = assets.garments(split)
    frame = ((0, 0), (PAD, PAD), (PAD, PAD))
    masks = np.pad(garments.masks, frame)
    values = np.pad(np.where(garments.masks, garments.images, 0), frame)
    spread = np.zeros_like(values)
    for dy, dx in ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, 0), (1, 0), (0, -1), (0, 1)):
        np.maximum(spread, np.roll(values, (dy, dx), (1, 2)), out=spread)
    values = np.where(masks, values, spread)
    packed = values.astype(np.uint32) | (_soften(masks).astype(np.uint32) << np.uint32(16))
    away = np.abs(np.arange(assets.SIDE) - assets.SIDE // 2) + 2
    extent = np.stack([(garments.masks.any(axis) * away).max(1) for axis in (2, 1)], axis=1)
    return _Stock(packed.reshape(len(packed), -1), extent, garments.per_class)


def _axis_samples(start: int, length: int, limit: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ``count`` samples over ``length`` pixels from ``start``: whole part and sixteenths."""
    position = start * 16 + ((2 * np.arange(count, dtype=np.int64) + 1) * length * 8) // count - 8
    position = np.clip(position, 0, (limit - 1) * 16 - 1)
    return position >> 4, (position & 15).astype(np.uint16)


def _background(draws: _Draws, split: str, height: int, width: int) -> np.ndarray:
    """Crop, scale, flip and tint one background photograph, its channels in any order: uint8 ``[height, width, 3]``."""
    photos = assets.backgrounds(split)
    pyramid = photos[draws.below(len(photos))]
    fraction, at_y, at_x = draws.between(96, 256), draws.below(65536), draws.below(65536)
    flip, upside_down, light = draws.below(2), draws.below(2), draws.between(70, 170)
    channels = _CHANNEL_ORDERS[draws.below(6)]
    grey = pyramid[0].shape[2] == 1
    reach = 60 if grey else 25
    gains = [light * draws.between(256 - reach, 256 + reach) >> 8 for _ in range(3)]
    full_h, full_w = pyramid[0].shape[:2]
    unit = min(full_h * 256 // height, full_w * 256 // width) * fraction >> 8  # photo pixels per pixel, in 1/256
    level = min(max(unit.bit_length() - 9, 0), len(pyramid) - 1)
    photo = pyramid[level]
    crop_h = max(min(height * unit >> (8 + level), photo.shape[0]), 2)
    crop_w = max(min(width * unit >> (8 + level), photo.shape[1]), 2)
    y, fy = _axis_samples((photo.shape[0] - crop_h) * at_y >> 16, crop_h, photo.shape[0], height)
    x, fx = _axis_samples((photo.shape[1] - crop_w) * at_x >> 16, crop_w, photo.shape[1], width)
    if flip:
        x, fx = x[::-1], fx[::-1]
    if upside_down:
        y, fy = y[::-1], fy[::-1]
    fy, fx = fy[:, None, None], fx[None, :, None]
    rows = photo[y] * (16 - fy) + photo[y + 1] * fy  # at most 255 * 16
    pixels = (rows[:, x] * (16 - fx) + rows[:, x + 1] * fx) >> 8  # at most 255 * 256 before the shift
    curves = np.minimum((np.arange(256)[:, None] * gains) >> 8, 255).astype(np.uint8)
    return np.stack([curves[:, c].take(pixels[:, :, 0 if grey else channels[c]]) for c in range(3)], axis=2)


def _centre(draws: _Draws, taken: list[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """Of four random places take the one farthest from the garments that are there."""
    places = [
        (draws.between(height >> 3, height - (height >> 3)), draws.between(width >> 3, width - (width >> 3)))
        for _ in range(4)
    ]
    if not taken:
        return places[0]
    return max(places, key=lambda place: min((place[0] - y) ** 2 + (place[1] - x) ** 2 for y, x in taken))


def _colours(draws: _Draws) -> np.ndarray:
    """The colour of each intensity, int32 ``[256, 3]``: dark to light tone of one random tint."""
    light = [draws.between(110, 255) for _ in range(3)]
    shade = draws.between(50, 110)
    ramp = np.arange(256, dtype=np.int32)[:, None]
    high = np.array(light, np.int32)
    low = high * shade >> 8
    return low + ((high - low) * ramp + 128) // 255


def _interpolate(garment: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and cover, 0 to 255, of a packed garment at column ``u`` and row ``v``, in 1/4096 of a pixel."""
    side = assets.SIDE + 2 * PAD
    last = ((side - 1) << 12) - 1
    u, v = np.clip(u, 0, last), np.clip(v, 0, last)
    at = (v >> 12) * side + (u >> 12)
    fu, fv = ((u >> 8) & 15).astype(np.uint32), ((v >> 8) & 15).astype(np.uint32)
    gu = np.uint32(16) - fu
    upper = garment.take(at) * gu + garment.take(at + 1) * fu
    lower = garment.take(at + side) * gu + garment.take(at + (side + 1)) * fu
    mixed = upper * (np.uint32(16) - fv) + lower * fv  # two sums of at most 255 * 256, one in each half
    return (mixed >> 8) & 255, mixed >> 24


def _place(draws: _Draws, scene: Scene, stock: _Stock, at: int, centre: tuple[int, int], mark: tuple[int, int]) -> None:
    """Draw garment ``at`` of the stock into image, label and instance of the scene."""
    height, width = scene.label.shape
    scale = max(draws.between(MIN_SCALE, MAX_SCALE) * min(height, width) // CANVAS, 64)
    angle = draws.between(-MAX_ANGLE, MAX_ANGLE) % TURN
    mirror = 1 - 2 * draws.below(2)
    colours = _colours(draws)
    sine, cosine = _SINE[angle], _SINE[(angle + TURN // 4) % TURN]
    up, across = stock.extent[at].tolist()
    reach_y = ((up * abs(cosine) + across * abs(sine)) * scale >> 22) + 1
    reach_x = ((up * abs(sine) + across * abs(cosine)) * scale >> 22) + 1
    rows = slice(max(centre[0] - reach_y, 0), min(centre[0] + reach_y + 1, height))
    columns = slice(max(centre[1] - reach_x, 0), min(centre[1] + reach_x + 1, width))
    dy = np.arange(rows.start, rows.stop, dtype=np.int32)[:, None] - centre[0]
    dx = np.arange(columns.start, columns.stop, dtype=np.int32)[None, :] - centre[1]
    step_c, step_s = (cosine << 6) // scale, (sine << 6) // scale  # garment pixels per pixel, in 1/4096
    middle = ((assets.SIDE + 2 * PAD) << 11) - 2048
    u = middle + mirror * (dx * step_c + dy * step_s)
    value, cover = _interpolate(stock.packed[at], u, middle + (dy * step_c - dx * step_s))
    seen = np.nonzero(cover > 64)
    alpha = np.minimum((cover[seen].astype(np.int32) - 64) * 2, 256)[:, None]
    window = scene.image[rows, columns]
    below = window[seen].astype(np.int32)
    window[seen] = below + ((colours.take(value[seen], 0) - below) * alpha >> 8)
    solid = cover >= 128
    np.copyto(scene.label[rows, columns], mark[0], where=solid)
    np.copyto(scene.instance[rows, columns], mark[1], where=solid)


def _visible_boxes(instance: np.ndarray, drawn: list[int]) -> tuple[np.ndarray, np.ndarray]:
    classes, boxes = [], []
    for number, name in enumerate(drawn, start=1):
        mask = instance == number
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(ys):
            classes.append(name)
            boxes.append([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])
    return np.array(classes, np.uint8), np.array(boxes, np.int32).reshape(-1, 4)


def make_scene(seed: int, split: str, index: int, size: tuple[int, int] = (CANVAS, CANVAS)) -> Scene:
    """Make scene ``index`` of a split.

    Args:
        seed: not negative; another seed gives other scenes of the same garments and backgrounds.
        split: ``train``, ``val`` or ``test``: which garments and backgrounds may appear.
        index: not negative, without a limit.
        size: width and height of the image in pixels, each at least 16.
    """
    width, height = size
    draws = _Draws(seed, assets.SPLITS.index(split), index)
    canvas = _background(draws, split, height, width)
    empty = np.zeros((height, width), np.uint8)
    scene = Scene(canvas, empty, empty.copy(), np.empty(0, np.uint8), np.empty((0, 4), np.int32))
    stock = _stock(split)
    places: list[tuple[int, int]] = []
    drawn: list[int] = []
    for number in range(1, draws.between(2, 5) + 1):
        members = KINDS[_KIND_OF_DRAW[draws.below(12)]]
        kind = members[draws.below(len(members))]
        garment = kind * stock.per_class + draws.below(stock.per_class)
        places.append(_centre(draws, places, height, width))
        drawn.append(kind)
        _place(draws, scene, stock, garment, places[-1], (kind + 1, number))
    classes, boxes = _visible_boxes(scene.instance, drawn)
    return Scene(scene.image, scene.label, scene.instance, classes, boxes)

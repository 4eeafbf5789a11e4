"""Sliding windows, scales and flips against straightforward computations, and PaddleSeg's own where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from peers import paddleseg

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.inference import restore, wrap
from paddleseg_slim.tasks.visual import blend, colour_map


class Net(paddle.nn.Layer):
    """Logits that depend on where a pixel stands, so that a wrong window or flip shows."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(3)
        self.conv = paddle.nn.Conv2D(3, 4, 5, padding=2)

    def forward(self, x: Any) -> list[Any]:
        return [self.conv(x)]


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


def forward_of(net: Net) -> Any:
    def forward(images: np.ndarray) -> list[np.ndarray]:
        with paddle.no_grad():
            return [output.numpy() for output in net(paddle.to_tensor(images))]

    return forward


IMAGES = np.random.default_rng(1).normal(size=(2, 3, 20, 30)).astype(np.float32)


def test_windows_cover_all_and_average_where_they_overlap() -> None:
    def positions(images: np.ndarray) -> list[np.ndarray]:
        assert images.shape[-2:] == (8, 12)
        return [images[:, :1]]

    out = wrap(positions, {"is_slide": True, "crop_size": [12, 8], "stride": [10, 6]})(IMAGES)[0]
    assert np.allclose(out, IMAGES[:, :1], atol=1e-6)


def test_one_window_of_the_whole_image_changes_nothing(net: Net) -> None:
    forward = forward_of(net)
    out = wrap(forward, {"is_slide": True, "crop_size": [64, 64], "stride": [32, 32]})(IMAGES)[0]
    assert np.allclose(out, forward(IMAGES)[0], atol=1e-6)


def test_flips_and_scales_average(net: Net) -> None:
    settings = {"aug_eval": True, "scales": [0.5, 1.0], "flip_horizontal": True, "flip_vertical": True}
    out = wrap(forward_of(net), settings)(IMAGES)[0]
    total = 0
    with paddle.no_grad():
        image = paddle.to_tensor(IMAGES)
        for size in ([10, 15], [20, 30]):
            for axes in ([], [3], [2], [2, 3]):
                scaled = F.interpolate(image, size, mode="bilinear")
                logits = net(paddle.flip(scaled, axes) if axes else scaled)[0]
                logits = paddle.flip(logits, axes) if axes else logits
                total = total + F.interpolate(logits, [20, 30], mode="bilinear").numpy()
    assert np.allclose(out, total / 8, atol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize(
    "settings",
    [
        {"is_slide": True, "crop_size": (12, 8), "stride": (10, 6)},
        {"aug_eval": True, "scales": [0.75, 1.0, 1.5], "flip_horizontal": True},
        {"aug_eval": True, "flip_vertical": True, "is_slide": True, "crop_size": (16, 16), "stride": (8, 8)},
    ],
)
def test_equals_paddleseg(settings: dict[str, Any], net: Net) -> None:
    infer = paddleseg("paddleseg.core.infer")
    trans_info = [("resize", (25, 40)), ("padding", (20, 28))]
    image = paddle.to_tensor(IMAGES[:1])
    arguments = {key: value for key, value in settings.items() if key != "aug_eval"}
    with paddle.no_grad():
        if settings.get("aug_eval"):
            theirs = infer.aug_inference(net, image, trans_info, **{"scales": 1.0, **arguments})[1]
        else:
            theirs = infer.inference(net, image, trans_info, **arguments)[1]
    ours = restore(wrap(forward_of(net), settings)(IMAGES[:1])[0], trans_info)
    assert np.allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"is_slide": True}, "crop_size"),
        ({"is_slide": True, "crop_size": [8, 8]}, "stride"),
        ({"is_slide": True, "crop_size": [8, 8], "stride": [9, 8]}, "larger"),
        ({"crop_size": [8, 8]}, "is_slide"),
        ({"flip_horizontal": True}, "aug_eval"),
        ({"scales": [0.5]}, "aug_eval"),
        ({"aug_eval": True, "scales": [0.0]}, "above 0"),
        ({"aug_evel": True}, "aug_evel"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UserError, match=phrase):
        wrap(lambda images: [images], settings)


def test_restore_undoes_padding_and_resizing() -> None:
    values = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    out = restore(values, [("resize", (6, 4)), ("padding", (3, 2))])
    assert out.shape == (1, 1, 6, 4)
    assert np.allclose(out[0, 0, :, 0], np.interp((np.arange(6) + 0.5) / 2 - 0.5, range(3), [0, 4, 8]))


def test_colours_are_those_of_pascal_voc() -> None:
    colours = colour_map()
    assert colours[:4].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert len({tuple(colour) for colour in colours[:255].tolist()}) == 255
    assert colour_map([1, 2, 3])[0].tolist() == [1, 2, 3]
    with pytest.raises(UserError):
        colour_map([1, 2])
    picture = np.full((1, 1, 3), 100, np.uint8)
    assert blend(picture, np.zeros((1, 1), np.uint8), colours).tolist() == [[[111, 60, 60]]]

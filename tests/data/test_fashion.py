"""The embedded data: the same bytes everywhere, splits apart, labels exact, boxes around what is visible."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest

from paddleseg_slim.data.fashion import LABEL_SETS, FashionGarments, FashionScenes, assets, make_scene, scene
from paddleseg_slim.data.transforms import Normalize, RandomDistort, RandomHorizontalFlip, RandomPaddingCrop
from paddleseg_slim.errors import UserError

GOLDEN = {
    (0, "train", 0, (128, 128)): "31ffa789fb5e26c05429f90786934e40e73b7a79138414f43659cedb323e45b2",
    (0, "train", 4321, (128, 128)): "32ee3b56de0c293255f4fc5e99c8f3fb1b3c967ae2bfa95f740f10fa8842150b",
    (7, "val", 5, (128, 128)): "1117570977b6648a808bef92d9d8e8ecbc40983301e36cddf83e08a260d9560e",
    (0, "test", 499, (200, 144)): "9b1af2b5dd1e7eae4f89ebb76c97f993b97fe7cfa381eb1dd03b3028506fd4fd",
    (1, "test", 8, (512, 512)): "510811956178a5069c03fca923f2afac000a83fa85206634538024d611aa0203",
}


def digest(made: scene.Scene) -> str:
    content = b"".join(array.tobytes() for array in (made.image, made.label, made.instance, made.boxes, made.classes))
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("key", GOLDEN)
def test_scenes_are_the_same_bytes_on_every_machine(key):
    assert digest(make_scene(*key)) == GOLDEN[key]


def test_the_sine_table_does_not_hang_on_the_rounding_of_one_libm():
    exact = [math.sin(2 * math.pi * step / scene.TURN) * 16384 for step in range(scene.TURN)]
    from_half = [abs(abs(value) % 1 - 0.5) for value in exact]
    assert min(from_half) > 1e-9


def test_assets_are_what_the_manifest_says_and_fit_in_the_repository():
    manifest = json.loads((assets.FOLDER / "assets.json").read_text())
    for split in assets.SPLITS:
        assert manifest[split]["garments"]["shape"][1] == 50 * assets.SIDE
    for entry in [*(manifest[split]["garments"] for split in assets.SPLITS), *manifest["backgrounds"]]:
        pixels = assets._read(entry["file"])
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == entry["sha256"]
    assert sum(path.stat().st_size for path in assets.FOLDER.iterdir()) < 8_000_000


def test_no_garment_and_no_background_is_in_two_splits():
    seen: dict[bytes, str] = {}
    for split in assets.SPLITS:
        for image in [*assets.garments(split).images, *(pyramid[0] for pyramid in assets.backgrounds(split))]:
            assert seen.setdefault(hashlib.sha256(image.tobytes()).digest(), split) == split


def test_masks_fill_the_holes_of_cloth_but_not_of_straps():
    image = np.zeros((2, 28, 28), np.uint8)
    image[:, 5:23, 5:23] = 200
    image[:, 10:16, 10:16] = 0  # a hole of 36 pixels
    image[:, 20, 20] = 0  # and one of 1
    image[:, 0, 0] = 200  # a speck
    shirt, bag = assets.garment_masks(image, np.array([6, 8], np.uint8))
    assert shirt.sum() == 18 * 18
    assert bag.sum() == 18 * 18 - 36


def test_label_instances_and_boxes_agree():
    for index in range(40):
        made = make_scene(3, "val", index, (160, 96))
        assert made.image.shape == (96, 160, 3) and made.label.shape == (96, 160)
        assert ((made.label > 0) == (made.instance > 0)).all()
        visible = [number for number in range(1, 6) if (made.instance == number).any()]
        assert len(visible) == len(made.classes) == len(made.boxes) >= 1
        for number, name, (x0, y0, x1, y1) in zip(visible, made.classes, made.boxes):
            mask = made.instance == number
            assert (made.label[mask] == name + 1).all()
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()


def test_every_class_appears_and_the_background_leaves_room():
    counts = np.zeros(11)
    for index in range(150):
        counts += np.bincount(make_scene(1, "train", index).label.ravel(), minlength=11)
    share = counts / counts.sum()
    assert 0.4 < share[0] < 0.8
    assert share[1:].min() > 0.01


def test_the_two_label_sets_mark_the_same_pixels():
    ten, five = (FashionScenes(mode="val", label_set=name, size=64) for name in LABEL_SETS)
    assert (ten.num_classes, five.num_classes) == (11, 6)
    for index in range(10):
        a, b = ten[index], five[index]
        assert (a["img"] == b["img"]).all()
        assert ((a["label"] > 0) == (b["label"] > 0)).all()
        pairs = set(zip(a["label"].ravel().tolist(), b["label"].ravel().tolist()))
        assert len({first for first, _ in pairs}) == len(pairs)  # each of the ten is in one of the five


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    def build(seed: int) -> FashionScenes:
        chain = [RandomPaddingCrop([48, 48]), RandomHorizontalFlip(), RandomDistort(), Normalize()]
        return FashionScenes(chain, size=64, num_samples=10, seed=seed)

    one, two = build(5), build(5)
    two[(0, 7)]  # what was read before does not matter
    first = one[(2, 3)]
    assert first["img"].dtype == np.float32 and first["img"].shape == (3, 48, 48)
    assert first["label"].dtype == np.int64 and first["label"].shape == (48, 48)
    assert (first["img"] == two[(2, 3)]["img"]).all()
    assert (first["img"] != build(6)[(2, 3)]["img"]).any()
    assert (first["img"] != one[(1, 3)]["img"]).any()
    val = FashionScenes(mode="val", size=64)
    assert (val[(0, 3)]["img"] == val[(5, 3)]["img"]).all()


def test_garments_to_classify():
    garments = FashionGarments([Normalize()], mode="test", size=64)
    assert len(garments) == 1000
    labels = [int(garments[index]["label"]) for index in range(20)]
    assert labels == list(range(10)) * 2
    sample = garments[3]
    assert sample["img"].shape == (3, 64, 64) and sample["label"].dtype == np.int64
    assert FashionGarments(label_set="fashion5", num_classes=5).class_names[4] == "bag"


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_set": "fashion7"},
        {"num_classes": 10},
        {"mode": "validation"},
        {"size": 8},
        {"size": [128]},
        {"num_samples": 0},
        {"transforms": "Normalize"},
    ],
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(UserError) as caught:
        FashionScenes(**wrong)
    assert str(next(iter(wrong.values()))) in caught.value.cause or "transforms" in caught.value.cause

"""Transforms: what each does, that it draws from its generator only, and that it agrees with PaddleSeg and Pillow."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import peers
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from paddleseg_slim.data import transforms as T
from paddleseg_slim.data.edge import binary_edge
from paddleseg_slim.data.transforms.colour import _DISTORTIONS
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import TRANSFORMS


def sample(height: int = 50, width: int = 70, channels: int = 3) -> dict:
    rng = np.random.default_rng(height * width)
    image = ndimage.gaussian_filter(rng.uniform(0, 255, (height, width, channels)), (2, 2, 0)) * 3 % 256
    label = (ndimage.gaussian_filter(rng.uniform(0, 1, (height, width)), 4) * 97 % 5).astype(np.uint8)
    return {"img": image.astype(np.float32), "label": label, "gt_fields": ["label"], "trans_info": []}


RANDOM = [
    T.RandomHorizontalFlip(),
    T.RandomVerticalFlip(0.5),
    T.RandomNoise(),
    T.RandomBlur(1.0, "random"),
    T.RandomRotation(),
    T.RandomScaleAspect(),
    T.RandomDistort(sharpness_prob=0.5),
    T.RandomAffine([64, 48], translation_offset=5),
    T.RandomPaddingCrop([60, 60]),
    T.RandomPaddingCrop([30, 30], category_max_ratio=0.5),
    T.RandomCenterCrop(),
    T.ResizeRangeScaling(40, 80),
    T.ResizeStepScaling(0.5, 2.0, 0.25),
    T.ResizeByShort([20, 30]),
    T.Resize([32, 48], interp="RANDOM"),
]
STILL = [
    T.Resize([32, 48]),
    T.Resize([32, 48], keep_ratio=True),
    T.Resize([48, 33], keep_ratio=True, size_divisor=8, interp="CUBIC"),
    T.ResizeByLong(64),
    T.ResizeByShort(32),
    T.ResizeByShort(32, max_size=40),
    T.LimitLong(max_long=40),
    T.LimitLong(min_long=100),
    T.LimitLong(max_long=100),
    T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    T.Normalize(),
    T.Padding([100, 90]),
    T.PaddingByAspectRatio(1.0),
    T.PaddingByAspectRatio(2.5),
    T.ScalePadding([40, 48]),
]


def name_of(transform: T.Transform) -> str:
    return "-".join(str(value) for value in transform.describe().values())


@pytest.mark.parametrize("transform", [*RANDOM, *STILL], ids=name_of)
@pytest.mark.parametrize("channels", [3, 1])
def test_image_and_label_stay_together_and_the_input_is_not_written_to(transform, channels):
    if isinstance(transform, T.Normalize) and channels == 1:
        transform = T.Normalize(transform.mean[:1], transform.std[:1])
    before = sample(channels=channels)
    kept = copy.deepcopy(before)
    after = transform(dict(before, trans_info=[]), np.random.default_rng(3))
    assert after["img"].dtype == np.float32 and after["img"].ndim == 3 and after["img"].shape[2] == channels
    assert after["label"].shape == after["img"].shape[:2] and after["label"].dtype == np.uint8
    assert set(np.unique(after["label"])) <= {0, 1, 2, 3, 4, 255}  # no label is mixed from two
    assert (before["img"] == kept["img"]).all() and (before["label"] == kept["label"]).all()


@pytest.mark.parametrize("transform", RANDOM, ids=name_of)
def test_random_transforms_are_a_function_of_their_generator(transform):
    assert transform.is_random
    images = [transform(sample(), np.random.default_rng(seed))["img"] for seed in (1, 1, 2, 3, 4, 5, 6)]
    assert np.array_equal(images[0], images[1])
    assert any(image.shape != images[0].shape or (image != images[0]).any() for image in images[2:])
    with pytest.raises(UserError, match="random"):
        transform(sample())


@pytest.mark.parametrize("transform", STILL, ids=name_of)
def test_a_description_builds_the_same_transform_again(transform):
    row = transform.describe()
    again = TRANSFORMS.get(row.pop("type"))(**row)
    assert not transform.is_random
    assert np.array_equal(again(sample())["img"], transform(sample())["img"])


def test_labels_follow_the_geometry_of_the_image():
    """A picture whose levels are its labels must still be that after any geometric transform."""
    moves = [item for item in RANDOM if type(item).__name__ not in ("RandomNoise", "RandomBlur", "RandomDistort")]
    label = np.zeros((60, 60), np.uint8)
    label[10:40, 15:50] = 1
    for transform in moves:
        for seed in range(4):
            data = {"img": np.repeat(label[:, :, None] * 200.0, 3, 2).astype(np.float32), "label": label}
            data.update(gt_fields=["label"], trans_info=[])
            if hasattr(transform, "im_padding_value"):
                data = type(transform)(**{**_args(transform), "im_padding_value": 0, "label_padding_value": 0})(
                    data, np.random.default_rng(seed)
                )
            else:
                data = transform(data, np.random.default_rng(seed))
            agree = (data["img"][:, :, 0] > 100) == (data["label"] == 1)
            border = ndimage.morphological_gradient(data["label"], size=5) > 0
            assert agree[~border].all(), name_of(transform)


def _args(transform: T.Transform) -> dict:
    return {key: value for key, value in transform.describe().items() if key != "type"}


def test_distortions_are_those_of_pillow():
    image = sample()["img"].round()
    picture = Image.fromarray(image.astype(np.uint8))
    pillow = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    for name, enhancer in pillow.items():
        for factor in (0.5, 1.0, 1.4):
            ours = np.clip(_DISTORTIONS[name][0](image, factor), 0, 255)[1:-1, 1:-1]
            theirs = np.asarray(enhancer(picture).enhance(factor), np.float32)[1:-1, 1:-1]
            assert np.abs(ours - theirs).max() <= 2, (name, factor)
    turned = _DISTORTIONS["hue"][0](image, 18.0)
    hsv = np.array(picture.convert("HSV"))
    hsv[:, :, 0] += 18
    theirs = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"), np.float32)
    assert np.abs(turned - theirs).mean() < 3


def test_crop_of_a_mixed_window():
    label = np.zeros((64, 64), np.uint8)
    label[:, 60:] = 1
    crop = T.RandomPaddingCrop([16, 16], category_max_ratio=0.9, loop_times=200)
    for seed in range(5):
        data = {"img": np.dstack([label] * 3).astype(np.float32), "label": label, "gt_fields": ["label"]}
        data = crop(data, np.random.default_rng(seed))
        assert 0.1 <= data["label"].mean() <= 0.9
        assert (data["img"][:, :, 0] == data["label"]).all()


def test_edges():
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10:30] = 1
    label[0, 0] = 255
    edge = binary_edge(label, 2, radius=2)
    assert edge[10, 15] == 1 and edge[9, 15] == 1 and edge[11, 15] == 1  # two pixels to each side of the border
    assert edge[20, 20] == 0 and edge[5, 20] == 0
    added = T.AddEdgeLabel()({"label": label, "gt_fields": ["label"]})
    assert added["gt_fields"] == ["label", "edge"]
    assert added["edge"][10, 20] == 1 and added["edge"][20, 20] == 0
    assert "edge" not in T.AddEdgeLabel()({"label": label, "gt_fields": []})


def test_compose_reads_paths_swaps_channels_and_describes_itself(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 6, 3), (10, 20, 30), np.uint8))  # blue, green, red
    chain = T.Compose([T.Resize([3, 2]), T.Normalize([0.0], [1.0])])
    image = chain({"img": str(tmp_path / "a.png")})["img"]
    assert image.shape == (3, 2, 3) and np.allclose(image[:, 0, 0] * 255, [30, 20, 10])
    bgr = T.Compose([], to_rgb=False)({"img": str(tmp_path / "a.png")})["img"]
    assert bgr[:, 0, 0].tolist() == [10, 20, 30]
    assert [row["type"] for row in chain.describe()["transforms"]] == ["Resize", "Normalize"]
    with pytest.raises(UserError, match="RandomNoise"):
        T.Compose([T.RandomNoise()]).describe()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Resize", {"target_size": 512}),
        ("Resize", {"target_size": [0, 4]}),
        ("Resize", {"interp": "BILINEAR"}),
        ("Normalize", {"std": [0.0]}),
        ("Normalize", {"mean": [1, 2]}),
        ("RandomHorizontalFlip", {"prob": 1.5}),
        ("RandomBlur", {"blur_type": "box"}),
        ("ResizeStepScaling", {"min_scale_factor": 2.0, "max_scale_factor": 1.0}),
        ("RandomPaddingCrop", {"crop_size": [16]}),
        ("RandomCenterCrop", {"retain_ratio": [2, 1]}),
        ("LimitLong", {"max_long": 10, "min_long": 20}),
        ("ResizeByLong", {"long_size": "large"}),
    ],
)
def test_wrong_arguments_are_named_with_the_transform(name, args):
    with pytest.raises(UserError, match=name) as caught:
        TRANSFORMS.get(name)(**args)
    assert next(iter(args)) in caught.value.cause


def test_padding_refuses_what_is_larger():
    with pytest.raises(UserError, match="70x50"):
        T.Padding([60, 60])(sample())


@pytest.mark.peer
@pytest.mark.parametrize("transform", STILL, ids=name_of)
def test_agrees_with_paddleseg(transform):
    peer_transforms = peers.paddleseg("paddleseg.transforms")
    peer = getattr(peer_transforms, type(transform).__name__)(**_args(transform))
    if type(transform).__name__ == "ScalePadding":  # PaddleSeg mixes labels by cubic interpolation there
        ours, theirs = dict(sample(), gt_fields=[]), dict(sample(), gt_fields=[])
    else:
        ours, theirs = sample(), sample()
    ours, theirs = transform(ours), peer(theirs)
    assert ours["img"].shape == theirs["img"].shape
    assert np.abs(ours["img"] - theirs["img"]).max() < 1e-5
    assert np.array_equal(ours["label"], theirs["label"])
    changes = [(kind, tuple(size)) for kind, size in theirs["trans_info"] if tuple(size) != ours["img"].shape[:2]]
    if type(transform).__name__ != "ScalePadding":
        assert ours["trans_info"] == changes


@pytest.mark.peer
def test_the_names_and_arguments_are_those_of_paddleseg():
    import inspect

    peer = peers.paddleseg("paddleseg.transforms")
    ours = set(TRANSFORMS)
    for name, item in vars(peer).items():
        if inspect.isclass(item) and item.__module__.startswith("paddleseg") and name != "GenerateInstanceTargets":
            assert name in ours
            theirs = inspect.signature(item).parameters
            mine = inspect.signature(TRANSFORMS.get(name)).parameters
            assert list(mine) == list(theirs), name
            for key, parameter in theirs.items():
                default = parameter.default
                assert mine[key].default == (tuple(default) if isinstance(default, list) else default), (name, key)


@pytest.mark.peer
def test_edges_agree_with_paddleseg():
    peer = peers.paddleseg("paddleseg.transforms.functional")
    label = sample()["label"]
    assert np.array_equal(binary_edge(label, 5, 2), peer.mask_to_binary_edge(label, 2, 5)[0])

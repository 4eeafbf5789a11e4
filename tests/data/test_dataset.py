"""List files as users write them, images as cameras and tools write them, datasets as PaddleSeg names them."""

from __future__ import annotations

import numpy as np
import peers
import pytest
from PIL import Image

from paddleseg_slim.data import Dataset
from paddleseg_slim.data.dataset import read_list
from paddleseg_slim.data.image import read_image, read_label
from paddleseg_slim.data.named import ADE20K, Cityscapes, OpticDiscSeg, PascalVOC, PPHumanSeg14K
from paddleseg_slim.data.transforms import AddEdgeLabel, Normalize, RandomPaddingCrop, Resize
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import DATASETS


def write_pair(root, image="a.jpg", label="a.png", value=1, size=(8, 6)):
    for name in (image, label):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(root / image)
    Image.new("L", size, value).save(root / label)


def dataset(root, text, mode="train", separator=" ", **options):
    path = root / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    options.setdefault("transforms", [Normalize()])
    return Dataset(
        dataset_root=str(root),
        num_classes=3,
        mode=mode,
        separator=separator,
        **{f"{mode}_path": str(path)},
        **options,
    )


@pytest.mark.parametrize(
    ("text", "separator", "names"),
    [
        ("a.jpg a.png\n\n  \nb.jpg b.png", " ", [("a.jpg", "a.png"), ("b.jpg", "b.png")]),
        (b"\xef\xbb\xbfa.jpg a.png\r\nb.jpg b.png\r\n\r\n", " ", [("a.jpg", "a.png"), ("b.jpg", "b.png")]),
        ("a.jpg\ta.png", " ", [("a.jpg", "a.png")]),
        ("a.jpg   a.png  ", " ", [("a.jpg", "a.png")]),
        ("a b.jpg,a b.png", ",", [("a b.jpg", "a b.png")]),
        ("a b.jpg\ta b.png", "\t", [("a b.jpg", "a b.png")]),
        ("a b.jpg a b.png", " ", [("a b.jpg", "a b.png")]),  # both are files: it is clear where to split
        ("图像/一.jpg 标签/一.png", " ", [("图像/一.jpg", "标签/一.png")]),
    ],
)
def test_lists_as_people_write_them(tmp_path, text, separator, names):
    for image, label in names:
        write_pair(tmp_path, image, label)
    data = dataset(tmp_path, text, separator=separator)
    assert data.file_list == [(str(tmp_path / image), str(tmp_path / label)) for image, label in names]
    sample = data[0]
    assert sample["img"].shape == (3, 6, 8) and sample["label"].shape == (6, 8) and (sample["label"] == 1).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n \r\n", "empty"),
        ("a.jpg a.png\nb.jpg", "Line 2 .* 1 parts"),
        ("a.jpg;a.png", "Line 1 .* 1 parts"),
        ("x y.jpg x y.png", "Line 1 .* 4 parts"),
        ("a.jpg a.png".encode("utf-16"), "not UTF-8"),
    ],
)
def test_lists_that_cannot_be_read_are_named_with_the_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as caught:
        dataset(tmp_path, text)
    assert "list.txt" in caught.value.cause


def test_a_missing_list_or_root_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt does not exist"):
        read_list(tmp_path / "gone.txt", tmp_path)
    with pytest.raises(UserError, match="dataset_root"):
        Dataset([], str(tmp_path / "gone"), 2, train_path="x")
    with pytest.raises(UserError, match="val_path is missing"):
        Dataset([], str(tmp_path), 2, mode="val", train_path="x")


def test_labels_go_through_the_transforms_while_training_and_keep_their_size_in_validation(tmp_path):
    write_pair(tmp_path, size=(8, 6))
    chain = [Resize([4, 4]), Normalize()]
    train = dataset(tmp_path, "a.jpg a.png", transforms=chain)[0]
    assert train["img"].shape == (3, 4, 4) and train["label"].shape == (4, 4)
    val = dataset(tmp_path, "a.jpg a.png", "val", transforms=chain)[0]
    assert val["img"].shape == (3, 4, 4) and val["label"].shape == (6, 8)
    assert val["trans_info"] == [("resize", (6, 8))]
    bare = dataset(tmp_path, "a.jpg", "test")[0]
    assert "label" not in bare and bare["name"].endswith("a.jpg")


def test_edges_come_with_the_label(tmp_path):
    write_pair(tmp_path, size=(40, 40))
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10:30] = 2
    Image.fromarray(label).save(tmp_path / "a.png")
    by_distance = dataset(tmp_path, "a.jpg a.png", edge=True)[0]["edge"]
    added = dataset(tmp_path, "a.jpg a.png", transforms=[AddEdgeLabel(), RandomPaddingCrop([48, 48])])[0]["edge"]
    assert by_distance.shape == (40, 40) and by_distance[10, 20] == 1 and by_distance[20, 20] == 0
    assert added.shape == (48, 48) and set(np.unique(added)) == {0, 1} and added[45, 45] == 0
    assert "edge" not in dataset(tmp_path, "a.jpg a.png", "val", edge=True)[0]


@pytest.mark.parametrize(("mode", "value"), [("L", 90), ("RGBA", (90, 90, 90, 7)), ("I;16", 90 * 256), ("P", 0)])
def test_images_of_other_kinds_are_converted(tmp_path, mode, value):
    image = Image.new(mode, (5, 4), value)
    if mode == "P":
        image.putpalette([90, 90, 90])
    image.save(tmp_path / "x.png")
    colour, grey = read_image(tmp_path / "x.png"), read_image(tmp_path / "x.png", 1)
    assert colour.shape == (4, 5, 3) and grey.shape == (4, 5, 1) and colour.dtype == grey.dtype == np.uint8
    assert (colour == 90).all() and (grey == 90).all()


def test_grey_networks_get_one_channel(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (6, 8), np.uint8)).save(tmp_path / "a.png")
    Image.new("L", (8, 6), 1).save(tmp_path / "label.png")
    chain = [RandomPaddingCrop([16, 16], im_padding_value=0), Normalize([0.0], [1.0])]
    image = dataset(tmp_path, "a.png label.png", transforms=chain, img_channels=1)[0]["img"]
    assert image.shape == (1, 16, 16) and image.dtype == np.float32
    assert np.allclose(image[0, :6, :8] * 255, np.asarray(Image.open(tmp_path / "a.png"))) and image[0, 6:].max() == 0


def test_labels_of_other_kinds(tmp_path):
    indexed = Image.fromarray(np.array([[0, 3]], np.uint8))
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9])
    indexed.save(tmp_path / "p.png")
    assert read_label(tmp_path / "p.png").tolist() == [[0, 3]]
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "deep.png")
    assert read_label(tmp_path / "deep.png").tolist() == [[0, 300]]
    Image.new("1", (2, 1), 1).save(tmp_path / "bits.png")
    assert read_label(tmp_path / "bits.png").tolist() == [[1, 1]]
    Image.new("RGB", (2, 1)).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png has 3 channels"):
        read_label(tmp_path / "rgb.png")


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "text", "missing"])
@pytest.mark.parametrize("which", ["a.jpg", "a.png"])
def test_damaged_files_are_named(tmp_path, damage, which):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    Image.fromarray(noise[:, :, 0] % 3).save(tmp_path / "a.png")
    data = dataset(tmp_path, "a.jpg a.png")
    file = tmp_path / which
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"empty": b"", "cut": whole[: len(whole) * 7 // 10], "noise": rng.bytes(500), "text": b"not an image"}[
                damage
            ]
        )
    with pytest.raises(UserError, match=which.replace(".", r"\.")):
        data[0]


def test_sizes_that_differ_are_named(tmp_path):
    write_pair(tmp_path)
    Image.new("L", (8, 7)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"8x6 pixels, its label .* 8x7"):
        dataset(tmp_path, "a.jpg a.png")[0]


@pytest.mark.parametrize("mode", ["train", "val"])
def test_a_label_that_is_no_class_is_refused_even_where_the_preflight_did_not_look(tmp_path, mode):
    write_pair(tmp_path, value=89)
    with pytest.raises(UserError, match=r"a\.jpg has labels that are no class \(0 to 2\).*: 89"):
        dataset(tmp_path, "a.jpg a.png", mode)[0]
    assert (dataset(tmp_path, "a.jpg a.png", mode, ignore_index=89)[0]["label"] == 89).all()
    padded = [RandomPaddingCrop(crop_size=[16, 16], label_padding_value=7)]
    write_pair(tmp_path)
    if mode == "train":
        with pytest.raises(UserError, match="7") as raised:
            dataset(tmp_path, "a.jpg a.png", mode, transforms=padded)[0]
        assert "label_padding_value" in raised.value.remedy


def test_label_map(tmp_path):
    write_pair(tmp_path, value=255)
    assert (dataset(tmp_path, "a.jpg a.png", label_map={255: 1})[0]["label"] == 1).all()
    with pytest.raises(UserError, match="label_map"):
        dataset(tmp_path, "a.jpg a.png", label_map={"255": 1})


def test_named_datasets_find_their_files(tmp_path):
    write_pair(tmp_path, "images/1.jpg", "labels/1.png")
    (tmp_path / "train_list.txt").write_text("images/1.jpg labels/1.png\n")
    optic = OpticDiscSeg([Normalize()], str(tmp_path), "train")
    assert (optic.num_classes, len(optic), optic.class_names[1]) == (2, 1, "optic disc")
    city = tmp_path / "city"
    write_pair(city, "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", "gtFine/val/ulm/ulm_1_gtFine_labelTrainIds.png")
    assert len(Cityscapes([], str(city), "val")) == 1
    write_pair(city, "leftImg8bit/val/ulm/ulm_2_leftImg8bit.png", "x.png")
    with pytest.raises(UserError, match=r"ulm_2_leftImg8bit\.png has no label"):
        Cityscapes([], str(city), "val")
    voc = tmp_path / "voc"
    write_pair(voc, "VOC2012/JPEGImages/7.jpg", "VOC2012/SegmentationClass/7.png")
    lists = voc / "VOC2012/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("7\n")
    assert len(PascalVOC([], str(voc), "train")) == 1
    with pytest.raises(UserError, match=r"aug\.txt"):
        PascalVOC([], str(voc), "trainaug")
    ade = tmp_path / "ade"
    write_pair(ade, "images/validation/1.jpg", "annotations/validation/1.png")
    Image.fromarray(np.array([[0, 1, 150]], np.uint8)).save(ade / "annotations/validation/1.png")
    Image.new("RGB", (3, 1)).save(ade / "images/validation/1.jpg")
    assert ADE20K([], str(ade), "val")[0]["label"].tolist() == [[255, 0, 149]]
    with pytest.raises(UserError, match="no mode 'test'"):
        ADE20K([], str(ade), "test")
    with pytest.raises(UserError, match="needs dataset_root"):
        PPHumanSeg14K([])


@pytest.mark.peer
def test_classes_and_ignored_label_are_those_of_paddleseg():
    peer = peers.paddleseg("paddleseg.datasets")
    for name in DATASETS:
        theirs = getattr(peer, name, None)
        if theirs is not None and hasattr(theirs, "NUM_CLASSES"):
            assert DATASETS.get(name).classes == theirs.NUM_CLASSES, name
            assert theirs.IGNORE_INDEX == 255


@pytest.mark.peer
def test_a_validation_sample_is_that_of_paddleseg(tmp_path):
    peer, peer_transforms = peers.paddleseg("paddleseg.datasets"), peers.paddleseg("paddleseg.transforms")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(rng.integers(0, 3, (60, 90), np.uint8)).save(tmp_path / "a.png")
    ours = dataset(tmp_path, "a.jpg a.png", "val", transforms=[Resize([64, 32], keep_ratio=True), Normalize()])[0]
    chain = [peer_transforms.Resize([64, 32], keep_ratio=True), peer_transforms.Normalize()]
    theirs = peer.Dataset("val", str(tmp_path), chain, 3, val_path=str(tmp_path / "list.txt"))[0]
    assert np.abs(ours["img"] - theirs["img"]).max() < 1e-6
    assert np.array_equal(ours["label"], theirs["label"][0])
    assert ours["trans_info"] == [(kind, tuple(size)) for kind, size in theirs["trans_info"]]

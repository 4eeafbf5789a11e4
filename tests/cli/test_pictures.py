"""The pictures of --image_path and the names of their results: every picture has a result of its own."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from paddleseg_slim.cli.predict import find_pictures
from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.prediction import MaskWriter, mask_names


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (["x.jpg", "y.png"], ["x.png", "y.png"]),
        (["x.jpg", "x.png", "y.bmp"], ["x.jpg.png", "x.png.png", "y.png"]),
        (["a/x.jpg", "b/x.png"], ["a/x.png", "b/x.png"]),
        (["x.jpg", "x.png", "x.jpg.png"], ["x.jpg.png", "x.png.png", "x.jpg.png.png"]),
        (["X.jpg", "x.png"], ["X.jpg.png", "x.png.png"]),
        (["x.y.jpg", "x.jpg"], ["x.y.png", "x.png"]),
    ],
)
def test_masks_keep_the_suffix_of_the_picture_where_stems_collide(names: list[str], masks: list[str]) -> None:
    found = mask_names([PurePath(name) for name in names])
    assert [name.as_posix() for name in found] == masks
    backwards = mask_names([PurePath(name) for name in reversed(names)])
    assert backwards[::-1] == found  # whatever the order


def test_two_pictures_of_one_stem_leave_two_masks(tmp_path: Path) -> None:
    names = [PurePath("x.jpg"), PurePath("x.png")]
    writer = MaskWriter(tmp_path, names)
    for number, name in enumerate(names):
        logits = np.zeros((2, 4, 4), np.float32)
        logits[number] = 1
        writer.add(name, np.zeros((4, 4, 3), np.uint8), logits)
    for number, name in enumerate(("x.jpg.png", "x.png.png")):
        with Image.open(tmp_path / "pseudo_color_prediction" / name) as mask:
            assert (np.asarray(mask) == number).all()
    assert {path.name for path in (tmp_path / "added_prediction").iterdir()} == {"x.jpg", "x.png"}


def _list(folder: Path, *entries: str) -> str:
    for entry in entries:
        file = folder / "lists" / entry
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    path = folder / "lists" / "list.txt"
    path.write_text("\n".join(entries), encoding="utf-8")
    return str(path)


def test_listed_pictures_outside_the_folder_keep_their_path_where_names_collide(tmp_path: Path) -> None:
    found = find_pictures(_list(tmp_path, "../a/x.jpg", "../b/x.jpg", "../c/y.jpg", "in/z.jpg", "./in/z.jpg"))
    assert [name.as_posix() for _, name in found] == ["a/x.jpg", "b/x.jpg", "y.jpg", "in/z.jpg"]
    absolute = [str(tmp_path / name / "x.jpg") for name in "ab"]
    names = [name for _, name in find_pictures(_list(tmp_path, *absolute))]
    assert names == [Path(path).relative_to(Path(path).anchor) for path in absolute]


def test_two_listed_pictures_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/x.jpg and \.\./a/x.jpg would both be called"):
        find_pictures(_list(tmp_path, "a/x.jpg", "../a/x.jpg", "x.jpg"))

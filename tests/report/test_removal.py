"""The section on what was removed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from report.runs import SHAPE, accuracy, latency

from paddleseg_slim.errors import UserError
from paddleseg_slim.report import Stage, find_stages, html, markdown, write_stage
from paddleseg_slim.report.removal import removals
from paddleseg_slim.report.summary import summarize
from paddleseg_slim.report.tables import explanation

DENSE = Stage("dense", "train", "train", accuracy(0.68), 1000, 5000, input_shape=SHAPE)
PRUNED = Stage(
    "before_retraining",
    "prune",
    "prune",
    accuracy(0.66),
    500,
    2500,
    base="dense",
    widths={"stem<1>": (32, 24), "body": (64, 64), "tail": (16, 16)},
    untouched={"body": "others save more for their loss", "tail": "--keep asks for it"},
    pinned={"head": "they are the network's output", "aux": "they are the network's output"},
    pictures={"../sensitivities.png": "What & why."},
)


def write(root: Path, pruned: Stage = PRUNED) -> None:
    """A pruning as the command leaves it: as cut in a folder, trained again above it."""
    root.mkdir(exist_ok=True)
    Image.new("RGB", (8, 4)).save(root / "sensitivities.png")
    write_stage(root / "dense", DENSE)
    write_stage(root / "pruned", pruned)
    pictures = {name.removeprefix("../"): text for name, text in pruned.pictures.items()}
    write_stage(root, replace(pruned, name="retrained", accuracy=accuracy(0.67), pictures=pictures))


def page(root: Path) -> str:
    return html.render(summarize(find_stages([root])), "Title", "The end.")


def test_both_stages_of_a_pruning_are_told_of_once(tmp_path):
    write(tmp_path)
    (removal,) = removals(summarize(find_stages([tmp_path])))
    assert removal.names == ("before_retraining", "retrained")
    assert removal.changed == {"stem<1>": (32, 24)}
    assert removal.sentences == [
        "1 of 3 channel groups lost channels: 112 before, 104 now (-7 %).",
        "Groups that stayed as they were: 1 (others save more for their loss), 1 (--keep asks for it).",
    ]
    text = page(tmp_path)
    assert text.count("What was removed") == 1 and text.count("<img") == 2  # of the classes, and of the curves
    assert text.count("What &amp; why.") == 2  # for the eye and for the ear
    assert "<td>stem&lt;1&gt;</td><td>32</td><td>24</td><td>-25 %</td>" in text and 'style="width:75.0%"' in text
    assert re.search(r"<td>tail</td>.*?<td>--keep asks for it</td></tr>", text)
    assert "<td>head</td><td>they are the network&#x27;s output</td>" in text


def test_prunings_of_two_runs_stay_apart(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two", replace(PRUNED, widths={**PRUNED.widths, "stem<1>": (32, 8)}))
    found = removals(summarize(find_stages([tmp_path])))
    assert [removal.changed["stem<1>"] for removal in found] == [(32, 24), (32, 8)]
    assert [len(removal.names) for removal in found] == [2, 2]


def test_hundreds_of_groups_are_folded(tmp_path):
    write(tmp_path)
    assert page(tmp_path).count("<details open>") == 3
    write(tmp_path, replace(PRUNED, widths={f"backbone.{number}": (64, 64 - number % 9) for number in range(300)}))
    text = page(tmp_path)
    assert text.count("<details>") == 3 and "<details open>" not in text
    assert text.count("<td>backbone.") == 300


def test_zeros_and_other_stages_have_no_such_section(tmp_path):
    write(tmp_path, replace(PRUNED, widths={}, untouched={}, pinned={}, pictures={}))
    assert "What was removed" not in page(tmp_path)
    assert "removed" not in markdown.render(summarize(find_stages([tmp_path])), "Title", "The end.")


def test_a_model_without_groups(tmp_path):
    write(tmp_path, replace(PRUNED, widths={}, untouched={}))
    assert "No channel of this model can be removed." in page(tmp_path) and "<td>aux</td>" in page(tmp_path)


def test_a_picture_that_went_is_named_and_another_file_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "sensitivities.png").unlink()
    assert "The file is missing: sensitivities.png." in page(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, replace(PRUNED, pictures={"../notes.txt": "Mine."}))
    with pytest.raises(UserError, match=r"notes\.txt cannot be shown"):
        page(tmp_path)


def test_markdown_tells_it_in_short(tmp_path):
    pinned = {f"head.{number}": "they are the network's output" for number in range(8)}
    write(tmp_path, replace(PRUNED, pinned=pinned))
    text = markdown.render(summarize(find_stages([tmp_path])), "Title", "The end.")
    assert "before_retraining, retrained against dense: 1 of 3 channel groups lost channels" in text
    assert "| stem<1> | 32 | 24 | -25 % |" in text and "| body |" not in text
    assert "- `head.0`, `head.1`, `head.2`, `head.3`, `head.4` and 3 more: they are the network's output" in text
    assert "`sensitivities.png`: What & why." in text


def test_times_are_explained_where_there_are_some(tmp_path):
    write(tmp_path)
    assert explanation(summarize(find_stages([tmp_path]))) == "Differences are against dense."
    apart = replace(latency("", "openvino", 2.0, 4.0), speedup=None, ci_low=None, ci_high=None, base="")
    write_stage(tmp_path, replace(PRUNED, name="retrained", latency=(apart,)))
    said = explanation(summarize(find_stages([tmp_path])))
    assert said == "Differences and speed-ups are against dense. Times are medians."
    write_stage(tmp_path, replace(PRUNED, name="retrained", latency=(latency("", "openvino", 2.0, 4.0),)))
    assert "In brackets is the 95 %" in explanation(summarize(find_stages([tmp_path])))
    write_stage(tmp_path / "alone", DENSE)
    assert explanation(summarize(find_stages([tmp_path / "alone"]))) == ""

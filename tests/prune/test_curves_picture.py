"""The picture of the curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import pytest
from PIL import Image

from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.curves_picture import MOST, caption, draw, quantity, shortened


def curves(losses: list[list[float]], mode: str = "refit", metric: str = "divergence") -> Curves:
    groups = {f"backbone.stage{n}.conv": GroupCurve(16, [12, 8, 2], own, []) for n, own in enumerate(losses)}
    return Curves(mode, metric, 1.0, 16, groups)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """Figures that were written."""
    figures, save = [], matplotlib.figure.Figure.savefig

    def saved(figure: matplotlib.figure.Figure, *args: object, **more: object) -> None:
        figures.append(figure)
        save(figure, *args, **more)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", saved)
    return figures


@pytest.mark.parametrize(
    ("mode", "metric", "text"),
    [
        ("refit", "divergence", "KL divergence of the predictions (nats)"),
        ("exact", "divergence", "KL divergence of the predictions (nats)"),
        ("exact", "mIoU", "relative loss of mIoU (%)"),
        ("fast", "Acc", "relative loss of Acc (%)"),
        ("taylor", "loss (predicted)", "predicted rise of the cross entropy (nats)"),
        ("ranking", "l1_norm", "importance of the channels removed (l1_norm)"),
    ],
)
def test_the_label_says_what_was_measured(mode: str, metric: str, text: str) -> None:
    made = curves([[0.1, 0.2, 0.3]], mode, metric)
    assert text in quantity(made) and text in caption(made)


@pytest.mark.parametrize(("metric", "unit"), [("divergence", 1), ("mIoU", 100)])
def test_small_and_large_losses_are_both_seen_on_one_scale(
    tmp_path: Path, drawn: list[matplotlib.figure.Figure], metric: str, unit: int
) -> None:
    made = curves([[0.0001, 0.0002, 0.0003], [0.01, 0.1, 0.5], [0.0, 0.0, 0.0]], "exact", metric)
    draw(made, tmp_path / "a.png", {"backbone.stage1.conv": (16, 12)})
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    assert list(panels) == [f"backbone.stage{n}.conv" for n in (1, 0, 2)]  # the most sensitive first
    limits = {axes.get_ylim() for axes in panels.values()}
    assert len(limits) == 1 and {axes.get_yscale() for axes in panels.values()} == {"log"}
    low, high = limits.pop()
    assert low < 0.0001 * unit and high > 0.5 * unit
    (small,) = (line for line in panels["backbone.stage0.conv"].lines if line.get_linestyle() == "-")
    assert max(small.get_ydata()) == pytest.approx(0.0003 * unit) and max(small.get_ydata()) > 3 * min(
        small.get_ydata()
    )
    texts = [panels[name].texts[0].get_text() for name in panels]
    assert texts[0] == f"16 → 12 channels, at most {0.5 * unit:.3g}" and texts[2] == "16 channels, at most 0"


def test_losses_that_a_logarithm_cannot_take(tmp_path: Path) -> None:
    for number, losses in enumerate(([], [[-0.01, -0.02, -0.03]], [[0.0, 0.0, 0.0], [-0.1, 0.0, -0.1]])):
        draw(curves(losses, "exact", "mIoU"), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 3000


def test_a_picture_of_many_groups_stays_small_and_says_what_it_leaves_out(
    tmp_path: Path, drawn: list[matplotlib.figure.Figure]
) -> None:
    draw(curves([[0.001 * n, 0.002 * n, 0.003 * n] for n in range(MOST + 50)]), tmp_path / "many.png")
    assert len(drawn[0].axes) == MOST
    assert drawn[0].texts[0].get_text().startswith(f"The {MOST} most sensitive of {MOST + 50} channel groups")
    width, height = Image.open(tmp_path / "many.png").size
    assert width < 1500 and height < 3700


def test_names_cut_in_the_middle_stay_different(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    names = [f"a.{'x' * 60}{part}{'y' * 60}.conv" for part in ("1", "2", ".3.")] + ["short"]
    texts = shortened(names, 40)
    assert len(set(texts.values())) == 4 and texts["short"] == "short"
    assert all(text.startswith("a.x") and text.endswith("y.conv") for name, text in texts.items() if name != "short")
    hrnet = [f"backbone.st4.stage_st4_{n}.branches_func.bb_st4_{n}_branch_layer_4_1.conv1._conv" for n in (1, 2, 3)]
    made = replace(curves([]), groups={name: GroupCurve(18, [9], [0.1], []) for name in hrnet})
    draw(made, tmp_path / "a.png")
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert [title.replace("\n", "") for title in titles] == hrnet  # whole, on two lines
    assert all(max(map(len, title.split("\n"))) <= 40 for title in titles)

"""The first step of the prune command: importance and curves, made and found again."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from prune.matrix import captured
from prune.test_reconstruct import images

from paddleseg_slim.cli import prune, prune_steps
from paddleseg_slim.cli.prune_steps import Analysis
from paddleseg_slim.errors import UserError
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.criteria import removal_order


def analysis(folder: Path, *flags: str) -> Analysis:
    """That of a tiny net by these flags."""
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    args = parser.parse_args(["--config", "x.yml", "--retraining_iters", "1", "--pruning_ratio", "0.3", *flags])
    prune.settle(args)
    paddle.seed(0)
    groups = find_groups(captured(nn.Sequential(nn.Conv2D(3, 8, 3), nn.ReLU(), nn.Conv2D(8, 2, 1))), 20)
    task: Any = SimpleNamespace(val_dataset=lambda: [{"img": image[0]} for image in images(2)])
    config: Any = SimpleNamespace(to_dict=dict, batch_size=1)
    return Analysis(args, config, task, folder, groups, threads=1)


def test_a_ranking_is_found_again_on_resuming(tmp_path: Path) -> None:
    flags = ["--sensitivity", "none", "--criterion"]
    _, made = analysis(tmp_path, *flags, "l1_norm").run()
    _, found = analysis(tmp_path, *flags, "l1_norm", "--resume").run()
    assert found == made and made.mode == "ranking"
    with pytest.raises(UserError, match="other settings"):
        analysis(tmp_path, *flags, "l2_norm", "--resume").check()


def test_what_is_known_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the order of the channels nor the curves, whether the run goes on or the file is given to another one."""
    (tmp_path / "one").mkdir()
    monkeypatch.setattr(prune_steps, "refit_images", lambda *_: images(2))
    importance, made = analysis(tmp_path / "one").run()
    file = tmp_path / "one" / "sensitivities.json"
    for name in ("eliminations", "readers_of", "refit_curves"):
        monkeypatch.setattr(prune_steps, name, None)
    given = analysis(tmp_path / "two", "--sensitivity_file", str(file))
    again = analysis(tmp_path / "one", "--resume")
    for known in (given, again):
        known.check()
        order, curves = known.run()
        assert curves == made and order.keys() == importance.keys()
        for name, scores in importance.items():
            np.testing.assert_array_equal(removal_order(order[name]), removal_order(scores))
    assert (tmp_path / "two" / "sensitivities.json").read_text() == file.read_text()
    assert (tmp_path / "two" / "sensitivities.png").is_file()


def test_an_unsuitable_file_is_refused_with_its_own_remedy(tmp_path: Path) -> None:
    _, made = analysis(tmp_path, "--sensitivity", "none").run()
    replace(made, fingerprint={**made.fingerprint, "weights": "x"}).write(tmp_path / "sensitivities.json")
    file = str(tmp_path / "sensitivities.json")
    for flags, text in ((["--resume"], "Delete it"), (["--sensitivity_file", file], "leave --sensitivity_file out")):
        with pytest.raises(UserError, match="other weights") as error:
            analysis(tmp_path, "--sensitivity", "none", *flags).check()
        assert text in error.value.remedy

"""The first step of the prune command: importance and curves, made and found again."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paddle
import pytest
from paddle import nn
from prune.matrix import captured
from prune.test_reconstruct import images

from paddleseg_slim.cli import prune
from paddleseg_slim.cli.prune_steps import Analysis
from paddleseg_slim.errors import UserError
from paddleseg_slim.prune.channels import find_groups


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
        analysis(tmp_path, *flags, "l2_norm", "--resume").run()

"""Every config of the repository: it loads as PaddleSeg loads it, and every component in it can be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddleseg_slim.config import Config, build, check, load_config
from paddleseg_slim.config.merge import read_with_bases
from paddleseg_slim.registry import DATASETS, MODELS, OPTIMIZERS

ROOT = Path(__file__).resolve().parents[2] / "configs"
OTHERS = {"_base_", "recipes", "slim"}
"""Folders of what is not a whole config: bases, recipes, files for ``--slim_config``."""
PATHS = [path for path in sorted(ROOT.rglob("*.yml")) if not OTHERS & set(path.relative_to(ROOT).parts)]
NAMES = [path.relative_to(ROOT).as_posix() for path in PATHS]
HEAVY = ("w48", "101", "unet", "b1", "b2", "hardnet", "stdc2", "gcnet", "deeplabv3_", "ocrnet", "hrnetw18_fashion")


def test_there_are_configs():
    assert len(PATHS) > 60


@pytest.mark.parametrize("name", NAMES)
def test_every_component_fits_its_signature(name):
    from paddleseg_slim.losses import build_loss
    from paddleseg_slim.train.optim import build_schedule

    config = load_config(ROOT / name)
    for dataset in (config.train_dataset, config.val_dataset, config.test_dataset):
        if dataset is not None:
            check(dataset, DATASETS)
    if config.task == "segmentation":
        check(config.model, MODELS, num_classes=2)
    check(config.optimizer, OPTIMIZERS, model=None, schedule=None)
    build_schedule(config.lr_scheduler, config.iters)
    assert len(build_loss(config.loss.to_dict()).coef) == len(config.loss.coef)


def outputs_in_training(config: Config) -> tuple[int, set[int]]:
    """How many outputs the model has in training, and how many channels each of them."""
    import paddle

    model = build(config.model, MODELS, num_classes=6)
    model.train()
    with paddle.no_grad():
        outputs = model(paddle.zeros([2, 3, 64, 64]))
    return len(outputs), {output.shape[1] for output in outputs}


FASHION = [name for name in NAMES if name.startswith("fashion/") and "classification" not in name]


@pytest.mark.parametrize("name", [name for name in FASHION if not any(word in name for word in HEAVY)])
def test_there_is_a_weight_for_each_output(name):
    config = load_config(ROOT / name)
    assert outputs_in_training(config) == (len(config.loss.coef), {6})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FASHION if any(word in name for word in HEAVY)])
def test_there_is_a_weight_for_each_output_of_a_large_model(name):
    config = load_config(ROOT / name)
    assert outputs_in_training(config) == (len(config.loss.coef), {6})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "cityscapes" in name and "1024x512_scale0" not in name])
def test_cityscapes_models_have_a_weight_for_each_output(name):
    opts = ["model.pretrained=none"]
    config = load_config(ROOT / name)
    if "backbone" in config.model.args:
        opts = ["model.backbone.pretrained=none"]
    assert outputs_in_training(load_config(ROOT / name, [*opts, "model.num_classes=6"]))[0] == len(config.loss.coef)


@pytest.mark.peer
@pytest.mark.parametrize("name", NAMES)
def test_paddleseg_reads_the_same(name):
    from peers import paddleseg

    theirs = paddleseg("paddleseg.cvlibs.config").parse_from_yaml(str(ROOT / name))
    assert read_with_bases(ROOT / name) == theirs


def test_the_fashion_datasets_agree_with_their_classes():
    config = load_config(ROOT / "fashion" / "fastscnn_fashion5_128x128.yml")
    dataset = build(config.val_dataset, DATASETS)
    assert dataset.num_classes == len(dataset.class_names) == 6
    assert len(dataset) == 300
    assert dataset[0]["img"].shape == (3, 128, 128)

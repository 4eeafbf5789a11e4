from __future__ import annotations

import copy

import pytest

from paddleseg_slim.config import ComponentSpec, config_from_dict, load_config
from paddleseg_slim.errors import UserError

TEXT = """
batch_size: 4
iters: 1e3
train_dataset:
  type: Dataset
  dataset_root: data
  train_path: data/train.txt
  num_classes: 3
  ignore_index: 254
  img_channels: 4
  transforms: [{type: Resize, target_size: [64, 64]}, {type: Normalize}]
optimizer: {type: SGD, momentum: 0.9}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01}
loss:
  types: [{type: MixedLoss, losses: [{type: CrossEntropyLoss}, {type: DiceLoss}], coef: [1, 1]}]
  coef: [1, 0.4]
model: {type: FCN, backbone: {type: HRNet_W18}}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config.yml"
    file.write_text(TEXT)
    return file


def test_the_sections_become_typed(path):
    config = load_config(path)
    assert (config.task, config.batch_size, config.iters, config.to_static_training) == ("segmentation", 4, 1000, False)
    assert config.val_dataset is None
    assert config.distill_loss is None
    backbone = config.model.args["backbone"]
    assert isinstance(backbone, ComponentSpec)
    assert (backbone.type, backbone.key_path) == ("HRNet_W18", "model.backbone")
    resize = config.train_dataset.args["transforms"][0]
    assert (resize.type, resize.args, resize.key_path) == (
        "Resize",
        {"target_size": [64, 64]},
        "train_dataset.transforms[0]",
    )
    assert len(config.loss.types) == 2
    assert config.loss.coef == (1.0, 0.4)


def test_what_the_dataset_states_is_filled_in(path):
    config = load_config(path)
    assert config.model.args["num_classes"] == 3
    assert config.model.args["backbone"].args["in_channels"] == 4
    assert [loss.args["ignore_index"] for loss in config.loss.types[0].args["losses"]] == [254, 254]


def test_opts_and_flags(path):
    config = load_config(
        path,
        [
            "iters=7",
            "test_config.scales=0.75,1.0",
            "train_dataset.transforms.0.target_size=32",
            "export.output_op=none",
        ],
        overrides={"batch_size": 2, "learning_rate": 0.5, "iters": None},
    )
    assert (config.iters, config.batch_size) == (7, 2)
    assert config.lr_scheduler.args["learning_rate"] == 0.5
    assert config.test_config == {"scales": [0.75, 1.0]}
    assert config.train_dataset.args["transforms"][0].args["target_size"] == 32
    assert config.export == {"output_op": "none"}


def test_paddleseg_2_0_learning_rate(tmp_path):
    text = TEXT.replace("lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01}", "")
    file = tmp_path / "old.yml"
    file.write_text(text + "learning_rate: {value: 0.02, decay: {type: poly, power: 0.9, end_lr: 0.0}}\n")
    schedule = load_config(file).lr_scheduler
    assert (schedule.type, schedule.args) == ("PolynomialDecay", {"learning_rate": 0.02, "power": 0.9, "end_lr": 0.0})
    file.write_text(TEXT + "learning_rate: {value: 0.02}\n")
    with pytest.raises(UserError, match="learning_rate and lr_scheduler"):
        load_config(file)


@pytest.mark.parametrize(
    ("opt", "cause", "remedy"),
    [
        ("batchsize=3", "batchsize: unknown key", "batch_size"),
        ("batch_size=0", "batch_size is 0", "1 or more"),
        ("batch_size=many", "batch_size is 'many'", "int"),
        ("iters=1.5", "iters is 1.5", "int"),
        ("model=UNet", "model is 'UNet', not a section", "type"),
        ("model.type=3", "model has the type 3", "type"),
        ("model.num_classes=5", "train_dataset.num_classes is 3, model.num_classes is 5", "num_classes"),
        ("model.backbone.in_channels=3", "train_dataset.img_channels is 4, model.backbone.in_channels is 3", "in_chan"),
        ("loss.coef=[1, 2, x]", "loss.coef.2. is 'x'", "coef"),
        ("loss.coef=1", "loss.coef is 1, not a list", "types"),
        ("loss.weight=1", "loss.weight: unknown key", "types and coef"),
        ("test_config.scale=1", "test_config.scale: unknown key", "scales"),
        ("test_config.aug_eval=maybe", "test_config.aug_eval is 'maybe'", "bool"),
        ("export.output_op=max", "export.output_op is 'max'", "argmax"),
        ("optimizer=none", "has no section optimizer", "optimizer:"),
    ],
)
def test_what_is_wrong_is_named_by_its_key_path(path, opt, cause, remedy):
    with pytest.raises(UserError) as error:
        load_config(path, [opt])
    assert cause.replace(".2.", "[2]") in error.value.cause
    assert remedy in error.value.remedy


def test_a_config_survives_its_dict(path):
    config = load_config(path)
    again = config_from_dict(config.to_dict())
    assert again.fingerprint() == config.fingerprint()
    assert again.differences(config) == []
    before = copy.deepcopy(config.raw)
    config.to_dict()["model"]["type"] = "other"
    assert config.raw == before


def test_differences_name_key_paths(path):
    old = load_config(path)
    new = load_config(path, ["optimizer.momentum=0.8", "train_dataset.transforms.0.target_size=32", "loss.coef=[1, 1]"])
    assert new.fingerprint() != old.fingerprint()
    assert new.differences(old.to_dict()) == [
        "train_dataset.transforms[0].target_size: 32, was [64, 64]",
        "optimizer.momentum: 0.8, was 0.9",
        "loss.coef: [1, 1], was [1, 0.4]",
    ]
    added = load_config(path, ["model.pretrained=x"])
    assert added.differences(old) == ["model.pretrained: x, was absent"]
    assert old.differences(added) == ["model.pretrained: absent, was x"]


def test_how_to_evaluate_and_export_does_not_hinder_a_resume(path):
    old = load_config(path)
    new = load_config(path, ["test_config.is_slide=True", "export.output_op=softmax"])
    assert new.fingerprint() == old.fingerprint()
    assert new.differences(old) == []

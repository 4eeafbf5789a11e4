"""The compression section as PaddleDetection's users write it."""

from __future__ import annotations

import pytest
import tiny

from paddleseg_slim.chain import verbs
from paddleseg_slim.cli.slim_section import STEP_NAMES
from paddleseg_slim.cli.slim_train import VERBS
from paddleseg_slim.config.slim import JOINT, METHODS, SlimStep, parse_slim, read_slim
from paddleseg_slim.errors import UserError


@pytest.mark.parametrize("path", sorted((tiny.ROOT / "configs" / "slim").glob("*.yml")), ids=lambda path: path.stem)
def test_the_repositorys_files_fit_their_commands(path):
    (step, *further) = read_slim(path).steps
    if not further:
        verb = verbs.VERBS[VERBS[step.method]]
        values = {"config": "c.yml", "model": "m.pdparams", "folder": "out"}
        args = verbs.check(verb, verbs.command_line(verb, step.options, values, {}, path.name), path.name)
        assert args.model_path == "m.pdparams" and args.save_dir == "out"


def test_keys_of_paddledetection_become_options():
    config = {"activation_preprocess_type": "PACT", "weight_bits": 8, "dtype": "int8"}
    qat = parse_slim({"method": "QAT", "QAT": {"quant_config": config, "print_model": True}}, "x", "slim")
    assert qat.steps[0].options == {"activation_quantize_type": "PACT", "weight_bits": 8}
    ptq_config = {"activation_quantizer": "KLQuantizer"}
    ptq = parse_slim({"method": "PTQ", "PTQ": {"ptq_config": ptq_config, "quant_batch_num": 4}}, "x", "slim")
    assert ptq.steps[0].options == {"observer": "kl", "batch_nums": 4}
    section = {"method": "Distill", "pretrain_weights": "t.pdparams"}
    assert parse_slim(section, "x", "slim").weights == "t.pdparams"
    loss = {"method": "Distill", "distill_loss": "CWDLoss", "CWDLoss": {"weight": 5}}
    assert parse_slim(loss, "x", "slim").steps[0].options == {"feature_loss": "CWDLoss", "feature_weight": 5}


def test_joint_strategies_are_methods_in_order():
    quant = {"weight_bits": 8}
    joint = {"method": "PrunerQAT", "PrunerQAT": {"pruning_ratio": 0.3, "retraining_iters": 9, "quant_config": quant}}
    apart = {
        **{"method": ["Pruner", "QAT"], "Pruner": {"pruning_ratio": 0.3}},
        "QAT": {"retraining_iters": 9, "quant_config": quant},
    }
    steps = (SlimStep("Pruner", {"pruning_ratio": 0.3}), SlimStep("QAT", {"retraining_iters": 9, "weight_bits": 8}))
    assert parse_slim(joint, "x", "slim").steps == parse_slim(apart, "x", "slim").steps == steps
    section = {"method": "DistillPrune", "pruner": "Pruner", "Pruner": {"ratio": 0.5}, "distill_loss": "KDLoss"}
    both = parse_slim({**section, "pretrain_weights": "t"}, "x", "slim")
    assert [step.method for step in both.steps] == ["Pruner", "Distill"] and both.distils and both.weights == "t"
    assert both.steps[1].options == {"logits_loss": "KDLoss"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "Prune"}, "'Prune'"),
        ({"method": "QAT", "QTA": {}}, "QTA"),
        ({"method": "PrunerQTA"}, "PrunerQAT"),
        ({"method": ["QAT", "QAT"]}, "twice"),
        ({"method": "Pruner", "pruner": "QAT"}, "'pruner'"),
        ({"method": "Distill", "distill_loss": "CWDLoss", "CWDLoss": {"wieght": 1}}, "CWDLoss.wieght"),
        ({"method": "Pruner", "Pruner": {"pruned_params": ["conv2d_27.w_0"]}}, "pruned_params"),
        ({"method": "QAT", "QAT": {"quant_config": {"dtype": "int4"}}}, "int4"),
        ({"method": "PTQ", "PTQ": {"ptq_config": {"activation_quantizer": "Best"}}}, "Best"),
        ({"method": "PTQ", "PTQ": {"ptq_config": {"activation_quantizer": ["a"]}}}, "activation_quantizer"),
        ({"method": "Distill", "distill_loss": ["KDLoss"]}, "distill_loss is"),
    ],
)
def test_what_cannot_be_honoured_is_refused(section, message):
    with pytest.raises(UserError, match=message):
        parse_slim(section, "x", "slim")


def test_every_method_has_a_command():
    assert set(METHODS) == set(VERBS) == set(STEP_NAMES)
    assert all(set(methods) <= set(METHODS) for methods in JOINT.values())

"""The compression section as PaddleDetection's users write it."""

from __future__ import annotations

import pytest
import tiny

from paddleseg_slim.chain import verbs
from paddleseg_slim.cli.slim_section import _VERBS
from paddleseg_slim.config.slim import METHODS, parse_slim, read_slim
from paddleseg_slim.errors import UserError


@pytest.mark.parametrize("path", sorted((tiny.ROOT / "configs" / "slim").glob("*.yml")), ids=lambda path: path.stem)
def test_the_repositorys_files_fit_their_commands(path):
    section = read_slim(path)
    verb = verbs.VERBS[_VERBS[section.method]]
    values = {"config": "c.yml", "model": "m.pdparams", "folder": "out"}
    args = verbs.check(verb, verbs.command_line(verb, section.options, values, {}, path.name), path.name)
    assert args.model_path == "m.pdparams" and args.save_dir == "out"


def test_keys_of_paddledetection_become_options():
    config = {"activation_preprocess_type": "PACT", "weight_bits": 8, "dtype": "int8"}
    qat = parse_slim({"method": "QAT", "QAT": {"quant_config": config, "print_model": True}}, "x", "slim")
    assert qat.options == {"activation_quantize_type": "PACT", "weight_bits": 8}
    ptq_config = {"activation_quantizer": "KLQuantizer"}
    ptq = parse_slim({"method": "PTQ", "PTQ": {"ptq_config": ptq_config, "quant_batch_num": 4}}, "x", "slim")
    assert ptq.options == {"observer": "kl", "batch_nums": 4}
    section = {"method": "Distill", "pretrain_weights": "t.pdparams"}
    assert parse_slim(section, "x", "slim").weights == "t.pdparams"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "Prune"}, "'Prune'"),
        ({"method": "QAT", "QTA": {}}, "QTA"),
        ({"method": "Pruner", "Pruner": {"pruned_params": ["conv2d_27.w_0"]}}, "pruned_params"),
        ({"method": "QAT", "QAT": {"quant_config": {"dtype": "int4"}}}, "int4"),
        ({"method": "PTQ", "PTQ": {"ptq_config": {"activation_quantizer": "Best"}}}, "Best"),
    ],
)
def test_what_cannot_be_honoured_is_refused(section, message):
    with pytest.raises(UserError, match=message):
        parse_slim(section, "x", "slim")


def test_every_method_has_a_command():
    assert set(METHODS) == set(_VERBS)

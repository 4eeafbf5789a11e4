"""A compression section for all scripts: joint strategies become chains; val and export take what came out."""

from __future__ import annotations

import json

import pytest
import tiny
import yaml

from paddleseg_slim.chain import verbs
from paddleseg_slim.chain.plan import Plan
from paddleseg_slim.cli import slim_section, slim_train
from paddleseg_slim.config.slim import read_slim
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json

PRUNE_QAT = tiny.ROOT / "configs" / "slim" / "prune_qat.yml"
DISTILL_PRUNE = tiny.ROOT / "configs" / "slim" / "distill_prune.yml"


def _args(folder, slim, *flags):
    tiny.write_config(folder)
    (folder / "w.pdparams").write_bytes(b"x")
    argv = ["--config", folder / "tiny.yml", "--model_path", folder / "w.pdparams", "--slim_config", slim, *flags]
    return verbs.check(verbs.VERBS["train"], map(str, argv), "test")


def _lines(args, folder) -> dict[str, str]:
    section = read_slim(args.slim_config)
    flags = slim_train._flags(args, section)
    plan = Plan(slim_train.recipe_of(args, section, flags), folder / "out", args.opts)
    plan.check()
    return {name: " ".join(plan.arguments(step)) for name, step in plan.steps.items()}


def test_a_joint_strategy_is_a_chain_of_its_methods(tmp_path):
    lines = _lines(_args(tmp_path, PRUNE_QAT, "--iters", 7, "--batch_size", 2), tmp_path)
    assert list(lines) == ["pruned", "quantized"]
    assert "--retraining_iters=0" in lines["pruned"] and "--iters=7" in lines["quantized"].replace("retraining_", "")
    assert f"--model_path={tmp_path / 'out' / 'pruned'}" in lines["quantized"]
    assert all("--batch_size=2" in line for line in lines.values())

    lines = _lines(_args(tmp_path, DISTILL_PRUNE, "--do_eval"), tmp_path)
    assert list(lines) == ["pruned", "distilled"]
    assert f"--teacher_model_path={(tmp_path / 'w.pdparams').as_posix()}" in lines["distilled"]
    assert "--feature_loss=CWDLoss" in lines["distilled"] and "--logits_loss=KDLoss" in lines["distilled"]


def test_a_section_of_the_config_is_left_out_on_request(tmp_path):
    config = tiny.write_config(tmp_path, slim={"method": "QAT", "QAT": {"retraining_iters": 2}})
    for opts, found in ((), True), (("--opts", "slim=null"), False):
        args = verbs.check(verbs.VERBS["train"], ["--config", str(config), *opts], "test")
        section = slim_section.of_config(args)
        assert (section is not None and section.steps[0].method == "QAT") is found
    joint = tiny.write_config(tmp_path, slim={"method": "PrunerQAT", "Pruner": {"pruning_ratio": 0.3}, "QAT": {}})
    args = verbs.check(verbs.VERBS["train"], ["--config", str(joint)], "test")
    with pytest.raises(UserError, match="No --model_path"):
        slim_train.recipe_of(args, slim_section.of_config(args), {})


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--use_ema",), "--use_ema means nothing"), (("--model_path", "absent.pdparams"), "absent.pdparams does not")],
)
def test_what_a_section_cannot_use_is_refused(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        _lines(_args(tmp_path, PRUNE_QAT, *flags), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distill_loss": "CWDLos"}, "Unknown loss 'CWDLos'"),
        ({"distill_loss": "CWDLoss", "CWDLoss": {"temprature": 2}}, "temprature: unknown key"),
        ({"pretrain_weights": "absent.pdparams"}, "teacher_model_path absent.pdparams does not exist"),
        ({"Distill": {"teacher_config": "absent.yml"}}, "teacher_config absent.yml does not exist"),
        ({"Distill": {"teacher": "x"}}, "has no option 'teacher'"),
    ],
)
def test_what_is_wrong_with_losses_and_teacher_of_a_joint_section_is_said_before_it_begins(change, message, tmp_path):
    slim = tmp_path / "slim.yml"
    slim.write_text(
        yaml.safe_dump({"slim": ["Pruner", "Distill"], "Pruner": {"pruning_ratio": 0.3}, **change}), encoding="utf-8"
    )
    with pytest.raises(UserError, match=message):
        _lines(_args(tmp_path, slim), tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_not_compressed_as_the_file_says_is_refused(tmp_path):
    """Before anything is loaded."""
    config, graph = tiny.write_config(tmp_path), tmp_path / "graph"
    graph.mkdir()
    (graph / "graph.json").write_text("{}", encoding="utf-8")
    write_json(graph / "compression.json", {"record": [{"step": "prune"}]})
    common = ("--config", config, "--slim_config", PRUNE_QAT)
    pruned = tiny.run("val.py", *common, "--model_path", graph)
    assert pruned.returncode == 2 and "Pruner, QAT" in pruned.stderr and "says prune" in pruned.stderr
    (graph / "compression.json").write_text('{"record": [3]}', encoding="utf-8")
    damaged = tiny.run("val.py", *common, "--model_path", graph)
    assert damaged.returncode == 2 and "compression.json is damaged" in damaged.stderr
    weights = tiny.run("export.py", *common, "--model_path", tmp_path / "w.pdparams", "--save_dir", tmp_path / "out")
    assert weights.returncode == 2 and "no compressed model" in weights.stderr and not (tmp_path / "out").exists()
    nothing = tiny.run("predict.py", *common, "--image_path", tmp_path, cwd=tmp_path)
    assert nothing.returncode == 2 and "holds no compressed model" in nothing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("in_config", [True, False], ids=["section of the config", "second file"])
def test_prune_and_qat_from_one_section_then_val_and_export(in_config, tmp_path):
    few = {key: {**tiny.SEGMENTATION[key], "size": [64, 64]} for key in ("train_dataset", "val_dataset")}
    methods = {
        "Pruner": {"pruning_ratio": 0.3, "sensitivity": None, "no_bench": True},
        "QAT": {"retraining_iters": 2, "batch_nums": 2, "no_bench": True},
    }
    slim = tmp_path / "tiny.yml" if in_config else tmp_path / "small.yml"
    config = tiny.write_config(tmp_path, **few, **({"slim": {"method": "PrunerQAT", **methods}} if in_config else {}))
    if not in_config:
        slim.write_text(yaml.safe_dump({"slim": "PrunerQAT", **methods}), encoding="utf-8")
    common = ("--config", config, *(() if in_config else ("--slim_config", slim)))
    weights = tiny.ROOT / "configs/fashion/weights/fastscnn_fashion5_128x128/model.safetensors"
    done = tiny.run("train.py", *common, "--model_path", weights, "--threads", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "output" / slim.stem
    record = json.loads((run / "quantized" / "graph" / "compression.json").read_text(encoding="utf-8"))["record"]
    assert [entry["step"] for entry in record] == ["prune", "quantize"]
    value = tiny.run("val.py", *common, "--json", "val.json", cwd=tmp_path)
    assert value.returncode == 0 and "mIoU" in value.stdout, value.stdout + value.stderr
    assert "quantized" in json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))["model_path"]
    exported = tiny.run("export.py", *common, "--save_dir", "exported", cwd=tmp_path)
    assert exported.returncode == 0 and (tmp_path / "exported" / "model.json").is_file(), exported.stderr
    again = tiny.run("train.py", *common, "--model_path", weights, "--resume_model", f"output/{slim.stem}",
                     "--threads", 1, cwd=tmp_path)  # fmt: skip
    assert again.returncode == 0 and "quantized: done" in again.stdout + again.stderr, again.stderr

"""Reading recipes: what is wrong is said at once; what is right becomes the commands' own arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import yaml

from paddleseg_slim.chain.plan import Plan
from paddleseg_slim.chain.recipe import load_recipe
from paddleseg_slim.chain.state import State
from paddleseg_slim.errors import UserError

DISTIL = {"teacher_model_path": "@start"}
RECIPES = sorted((tiny.ROOT / "configs" / "recipes").glob("*.yml"))


def _write(folder: Path, **keys) -> Path:
    tiny.write_config(folder)
    (folder / "w.pdparams").write_bytes(b"x")
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump({"config": "tiny.yml", "model": "w.pdparams", **keys}), encoding="utf-8")
    return path


def _plan(folder: Path, **keys) -> Plan:
    plan = Plan(load_recipe(_write(folder, **keys)), folder / "out")
    plan.check()
    return plan


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("from_scratch", [False, True])
def test_every_recipe_of_the_repository_fits_its_commands(path, from_scratch, tmp_path):
    plan = Plan(load_recipe(path, from_scratch=from_scratch), tmp_path)
    plan.check()
    assert ("start" in plan.steps) is from_scratch
    assert not plan.folder_of(plan.recipe.steps[0] if plan.recipe.steps else plan.recipe.tries[0].steps[0]).exists()


def test_a_step_takes_the_model_of_the_one_before(tmp_path):
    prune = {"pruning_ratio": 0.3, "retraining_iters": 4, "sensitivity": None, "keep": ["a.*", "b"]}
    plan = _plan(
        tmp_path,
        common={"threads": 1, "device": "cpu"},
        steps=[
            {"prune": {**prune, "name": "p"}},
            {"distil": {"teacher_model_path": "@start", "name": "d"}},
            {"ptq": {"from": "p"}},
            {"bench": {"models": ["a=@p/dense", "b=@ptq"]}},
            "report",
        ],
    )
    lines = {name: " ".join(plan.arguments(step)) for name, step in plan.steps.items()}
    out, weights = (tmp_path / "out").as_posix(), tmp_path / "w.pdparams"
    assert f"--model_path={weights} --save_dir={tmp_path / 'out' / 'p'}" in lines["p"]
    assert "--sensitivity=none" in lines["p"] and "--keep a.* b" in lines["p"] and "--threads=1" in lines["p"]
    assert f"--model_path={tmp_path / 'out' / 'p'}" in lines["d"] and f"--teacher_model_path={weights}" in lines["d"]
    assert plan.steps["ptq"].source == "p"
    assert lines["bench"].startswith(f"a={out}/p/dense b={out}/ptq ")
    assert [plan.base_of(step) for step in plan.steps.values()] == ["", "p", "p", "", ""]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"steps": [{"prune": {"pruning_rato": 0.3}}]}, "pruning_rato"),
        ({"steps": [{"prune": {"pruning_ratio": "much", "retraining_iters": 1}}]}, "invalid float value"),
        ({"steps": [{"prun": {}}]}, "unknown command 'prun'"),
        ({"steps": ["report", "report"]}, "two steps are called 'report'"),
        ({"steps": [{"bench": {"models": ["@nothing"]}}]}, "no step 'nothing' before it"),
        ({"steps": [{"export": {"from_scratch": 3}}]}, "a switch"),
        ({"steps": [{"export": {"name": "../up"}}]}, "a step is called"),
        ({"steps": ["report"], "colour": "red"}, "unknown key 'colour'"),
        ({"steps": 5}, "must be a list"),
        ({"steps": []}, "nothing to do"),
        ({"steps": ["export"], "_base_": "x.yml"}, "is a config, not a recipe"),
        ({"steps": ["export"], "common": "threads"}, "must be a mapping"),
        ({"steps": [{"ptq": {"name": "start"}}]}, "That name is taken"),
        ({"steps": [{"ptq": {"name": "state.json"}}]}, "That name is taken"),
        ({"steps": [{"export": {"name": "e"}}, {"ptq": {"from": "e"}}]}, "'e' makes no model"),
        ({"steps": [{"ptq": {"from": "later"}}, {"ptq": {"name": "later"}}]}, "no step 'later' before it"),
        ({"steps": [{"ptq": {"save_dir": "elsewhere"}}]}, "save_dir is not for a step"),
        ({"steps": ["report"], "model": "absent.pdparams"}, "absent.pdparams does not exist"),
        ({"steps": ["export"], "common": {"pruning_ratio": 1}}, "no step has this option"),
        ({"steps": [{"distil": {**DISTIL, "feature_loss": "CWDLos"}}]}, "distil: .*Unknown loss 'CWDLos'"),
        ({"steps": [{"distil": {**DISTIL, "logits_loss": "DiceLoss"}}]}, "DiceLoss compares with labels"),
        ({"steps": [{"distil": {**DISTIL, "logits_loss": "FSPLoss"}}]}, "FSPLoss compares places"),
        ({"steps": [{"distil": {**DISTIL, "feature_loss": "DKDLoss"}}]}, "DKDLoss compares logits"),
        (
            {
                "steps": [
                    {"distil": {**DISTIL, "opts": ["distill_loss.types=[{type: KDLos}]", "distill_loss.coef=[1]"]}}
                ]
            },
            "Unknown loss 'KDLos'",
        ),
        ({"steps": ["train", {"distil": {}}]}, "distil: There is no teacher"),
        (
            {"steps": [{"distil": {"teacher_model_path": "absent.pdparams"}}]},
            "teacher_model_path absent.pdparams does not",
        ),
        (
            {"steps": [{"distil": {**DISTIL, "teacher_config": "absent.yml"}}]},
            "teacher_config absent.yml does not exist",
        ),
        ({"steps": [{"bench": {"models": ["a=absent.onnx"]}}]}, "models absent.onnx does not exist"),
        ({"steps": [{"ptq": {"model_path": "w.pdparams"}}]}, "model_path is not for a step"),
        ({"steps": [{"qat": {"resume_model": "x"}}]}, "resume_model is not for a step"),
        ({"steps": [{"train": {"slim_config": "x.yml", "name": "t"}}]}, "slim_config is not for a step"),
        ({"steps": ["ptq", {"report": {"run_dirs": ["x"]}}]}, "run_dirs is not for a step"),
        ({"steps": [{"ptq": {"config": "absent.yml"}}]}, "config absent.yml does not exist"),
        ({"steps": [{"ptq": {"opts": {"batch_sise": 2}}}]}, "batch_sise"),
        ({"steps": ["ptq"], "common": {"config": "x.yml"}}, "common.config is not for all steps"),
        ({"steps": ["ptq"], "common": {"save-dir": "x"}}, "common.save-dir is not for all steps"),
        ({"steps": [], "goal": {"speedup": 2}}, "belong together"),
        ({"steps": [], "goal": {"speed": 2}, "tries": [{"name": "a", "steps": []}]}, "goal.speed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(keys, message, tmp_path):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        _plan(tmp_path, **keys)


def test_a_training_at_the_head_makes_the_first_model(tmp_path):
    path = _write(tmp_path, steps=[{"train": {"iters": 3}}, "export"], model=None)
    plan = Plan(load_recipe(path), tmp_path / "out")
    assert plan.made("start") == tmp_path / "out" / "start" / "best_model" / "model.pdparams"
    assert plan.steps["export"].source == "start"


def test_a_step_may_have_a_config_of_its_own(tmp_path):
    """Its base counts, too: what a step depends on is the resolved config that it works with."""
    other = tmp_path / "other"
    other.mkdir()
    tiny.write_config(other)
    (other / "own.yml").write_text("_base_: tiny.yml\nbatch_size: 4\n", encoding="utf-8")
    steps = [{"train": {"name": "teacher", "config": str(other / "own.yml"), "opts": {"iters": 3}}}, "ptq"]
    path = _write(tmp_path, steps=steps, common={"opts": ["iters=9"]})
    plan = Plan(load_recipe(path), tmp_path / "out", ["model.num_classes=6"])
    plan.check()
    teacher, ptq = plan.steps["teacher"], plan.steps["ptq"]
    line = " ".join(plan.arguments(teacher))
    assert f"--config={other / 'own.yml'}" in line and "--opts iters=9 model.num_classes=6 iters=3" in line
    assert (plan.config_of(teacher).batch_size, plan.config_of(teacher).iters) == (4, 3)
    assert (plan.config_of(ptq).batch_size, plan.config_of(ptq).iters) == (2, 9)
    before = [plan.made_of(step, State(plan.folder))["config"] for step in (teacher, ptq)]
    tiny.write_config(other, batch_size=3, optimizer={"type": "Adam"})
    after = [plan.made_of(step, State(plan.folder))["config"] for step in (teacher, ptq)]
    assert before[0] != after[0] and before[1] == after[1]

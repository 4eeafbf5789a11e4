"""A model with a long history: pruned twice, distilled, trained with quantizers, exported; each step resumable."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import yaml


@pytest.mark.slow
def test_pruned_twice_distilled_qat_trained_resumed_and_exported(tmp_path):
    tiny.write_config(tmp_path)
    prune = {"pruning_ratio": 0.2, "retraining_iters": 2, "no_bench": True, "sensitivity": "none", "align": 1}
    steps = [
        {"train": {"iters": 4, "save_interval": 2, "do_eval": True}},
        {"prune": {**prune, "name": "once"}},
        {"prune": {**prune, "name": "twice"}},
        {"distil": {"name": "distilled", "teacher_model_path": "@start", "iters": 2, "feature_loss": "CWDLoss"}},
        {"qat": {"name": "int8", "retraining_iters": 2, "no_bench": True, "batch_nums": 2}},
        {"export": {"name": "exported", "input_shape": [1, 3, 32, 32]}},
        "report",
    ]
    recipe = tmp_path / "recipe.yml"
    common = {"threads": 1, "device": "cpu"}
    recipe.write_text(yaml.safe_dump({"config": "tiny.yml", "common": common, "steps": steps}), encoding="utf-8")
    out = tmp_path / "out"
    done = tiny.run("slim/compress.py", "--recipe", recipe, "--save_dir", out, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr

    import paddle

    from paddleseg_slim.config import load_config
    from paddleseg_slim.graph import capture, load
    from paddleseg_slim.prune.surgery import replay
    from paddleseg_slim.tasks import build_task

    last = load(out / "int8" / "graph")
    kinds = [entry.get("step") for entry in last.record]
    assert kinds.count("prune") == 2 and kinds.index("distill") > 1 and len(kinds) == 4, kinds

    task = build_task(load_config(tmp_path / "tiny.yml"))
    fresh = capture(task.build_model(), task.input_spec(), fixed_size=(32, 32))
    before = sum(int(np.prod(tensor.shape)) for _, tensor in fresh.tensors())
    for entry in last.record:
        if entry.get("step") == "prune":
            fresh = replay(fresh, entry)
    distilled = load(out / "distilled" / "graph")
    assert {n: tuple(t.shape) for n, t in fresh.tensors()} == {n: tuple(t.shape) for n, t in distilled.tensors()}
    assert sum(int(np.prod(tensor.shape)) for _, tensor in fresh.tensors()) < 0.9 * before

    last.eval()
    image = paddle.to_tensor(np.asarray(task.val_dataset()[0]["img"])[None])
    classes = np.asarray(last(image)[0]).argmax(1)
    exported = load(out / "exported")
    exported.eval()
    written = exported(image)
    written = np.asarray(written[0] if isinstance(written, (list, tuple)) else written)
    assert (written.reshape(classes.shape) == classes).mean() > 0.99

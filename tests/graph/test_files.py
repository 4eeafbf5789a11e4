"""Own format, Paddle Inference files old and new: complete, equal, refused when damaged."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from graph_nets import SPEC, TINY, Classic, TinySeg, TwoInputs, image, seeded
from paddle.static import InputSpec

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture, export_inference, flatten, load, save
from paddleseg_slim.graph.dispatch import call_of
from paddleseg_slim.graph.ir import Node, Value

CHAIN = """
import sys
import numpy as np, paddle
from paddleseg_slim.graph import export_inference, flatten, load, save
assert not any(name.startswith("graph_nets") for name in sys.modules)
folder = sys.argv[1]
layer = load(folder + "/first")
x = paddle.to_tensor(np.load(folder + "/x.npy"))
leaves = lambda out: [leaf for leaf in flatten(out) if isinstance(leaf, paddle.Tensor)]
np.savez(folder + "/loaded.npz", *[leaf.numpy() for leaf in leaves(layer(x))])
layer.train()
optimizer = paddle.optimizer.Momentum(0.1, parameters=layer.parameters())
paddle.seed(3)
sum(leaf.mean() for leaf in leaves(layer(x)) if not leaf.stop_gradient).backward()
optimizer.step()
layer.record.append({"pass": "train", "steps": 1})
save(layer, folder + "/second")
layer = load(folder + "/second")
export_inference(layer, folder + "/exported/model")
np.savez(folder + "/trained.npz", *[leaf.numpy() for leaf in leaves(layer(x))])
"""


def leaves(outputs: Any) -> list[np.ndarray]:
    return [leaf.numpy() for leaf in flatten(outputs) if isinstance(leaf, paddle.Tensor)]


def predict(prefix: Path, x: np.ndarray) -> list[np.ndarray]:
    """Run exported files with Paddle Inference."""
    from paddle.inference import Config, create_predictor

    config = Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_glog_info()
    config.disable_mkldnn()
    predictor = create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def saved_arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as archive:
        return [archive[name] for name in archive.files]


def run_in_a_new_process(code: str, *arguments: Any, **environment: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(
    "name", [name if name == "seg" else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)
def test_capture_save_load_train_save_load_export(name: str, tmp_path: Path) -> None:
    net = seeded(TINY[name])
    graph = capture(net, SPEC, verify=False)
    graph.record.append({"pass": "capture"})
    graph.eval()
    x = image()
    expected = leaves(graph(x))
    save(graph, tmp_path / "first")
    np.save(tmp_path / "x.npy", x.numpy())
    run_in_a_new_process(CHAIN, tmp_path)
    for a, b in zip(saved_arrays(tmp_path / "loaded.npz"), expected):
        assert np.array_equal(a, b)
    trained = saved_arrays(tmp_path / "trained.npz")
    assert not np.array_equal(trained[0], expected[0])
    graph.train()  # the same step here
    paddle.seed(3)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=graph.parameters())
    outputs = [leaf for leaf in flatten(graph(x)) if isinstance(leaf, paddle.Tensor)]
    sum(leaf.mean() for leaf in outputs if not leaf.stop_gradient).backward()
    optimizer.step()
    graph.eval()
    for found in (trained, predict(tmp_path / "exported" / "model", x.numpy())):
        for a, b in zip(found, leaves(graph(x))):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    second = load(tmp_path / "second")
    assert second.record == [{"pass": "capture"}, {"pass": "train", "steps": 1}]
    assert [p.name for p in second.parameters()] == [p.name for p in graph.parameters()]
    net.set_state_dict(second.state_dict())  # still the names of the model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(capture(seeded(TinySeg), SPEC, verify=False), tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.skipif(os.name == "nt", reason="permissions are others there")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read_every_file_as_far_as_the_umask_says(umask: int, saved: Path, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = save(load(saved), tmp_path / "again")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("compression.json", "graph.json", "weights.safetensors"), 0o666 & ~umask)


def damage_version(folder: Path) -> None:
    data = json.loads((folder / "graph.json").read_text())
    data["format_version"] = 99
    (folder / "graph.json").write_text(json.dumps(data))


def damage_nodes(folder: Path) -> None:
    data = json.loads((folder / "graph.json").read_text())
    data["eval"]["nodes"][2]["inputs"] = {"x": "nobody"}
    (folder / "graph.json").write_text(json.dumps(data))


def damage_shape(folder: Path) -> None:
    data = json.loads((folder / "graph.json").read_text())
    data["eval"]["parameters"][0][2][0] += 1
    (folder / "graph.json").write_text(json.dumps(data))


def truncate(name: str) -> Any:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def tamper(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_version, "format 99"),
        (damage_nodes, "damaged"),
        (damage_shape, "damaged"),
        (truncate("graph.json"), "cannot be read"),
        (truncate("compression.json"), "cannot be read"),
        (truncate("weights.safetensors"), "is not the file"),
        (tamper, "is not the file"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "graph.json").write_text('{"format": "other"}'), "no graph of this package"),
    ],
)
def test_damaged_files_are_refused(saved: Path, tmp_path: Path, damage: Any, message: str) -> None:
    shutil.copytree(saved, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "model")


def test_an_op_of_our_own_with_wrong_arguments_is_refused() -> None:
    for inputs, attrs in (({"x": Value("x", "float32", (1,))}, {"nosuch": 1}), ({}, {})):
        with pytest.raises(UserError, match=r"'n' does not fit its op 'slim\.fake_quant'"):
            call_of(Node("n", "slim.fake_quant", inputs, attrs))


def test_files_are_readable_and_complete(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["compression.json", "graph.json", "weights.safetensors"]
    data = json.loads((saved / "graph.json").read_text())
    nodes = {node["name"]: node for node in data["eval"]["nodes"]}
    assert nodes["stem.conv"]["op"] == "conv2d" and nodes["stem.conv"]["attrs"]["strides"] == [2, 2]
    assert json.loads((saved / "compression.json").read_text())["record"] == []


def test_a_model_with_two_inputs_and_a_fixed_shape_exports(tmp_path: Path) -> None:
    graph = capture(seeded(TwoInputs), [InputSpec([None, 6], "float32", "a"), InputSpec([None, 3], "float32", "b")])
    graph.eval()
    export_inference(graph, tmp_path / "two", input_shapes=[(5, 6), (5, 3)])
    loaded = load(tmp_path / "two")
    assert [value.shape for value in loaded.eval_graph.inputs] == [(5, 6), (5, 3)]
    x, y = paddle.rand([5, 6]), paddle.rand([5, 3])
    assert np.array_equal(loaded(x, y)[0].numpy(), graph(x, y).numpy())


OLD = """
import sys
import paddle
from graph_nets import SPEC, Classic, seeded
net = seeded(Classic)
net.eval()
paddle.jit.save(net, sys.argv[1] + "/model", input_spec=SPEC)
paddle.enable_static()
executor = paddle.static.Executor(paddle.CPUPlace())
program, feeds, fetches = paddle.static.load_inference_model(sys.argv[1] + "/model", executor)
stored = lambda variable: variable.persistable and variable.name not in ("feed", "fetch")
paddle.static.io.save_vars(executor, sys.argv[1] + "/apart", program, predicate=stored)
open(sys.argv[1] + "/apart/__model__", "wb").write(open(sys.argv[1] + "/model.pdmodel", "rb").read())
"""


def test_old_files_load_run_and_train(tmp_path: Path) -> None:
    run_in_a_new_process(OLD, tmp_path, FLAGS_enable_pir_api="0")
    net = seeded(Classic)
    net.eval()
    x = image()
    expected = net(x).numpy()
    for path in (tmp_path / "model.pdmodel", tmp_path / "model", tmp_path / "apart"):
        layer = load(path)
        np.testing.assert_allclose(layer(x)[0].numpy(), expected, atol=1e-6)
    assert not layer.training and layer.origin == "loaded"
    layer.train()
    optimizer = paddle.optimizer.SGD(0.05, parameters=layer.parameters())
    losses = []
    for _ in range(3):
        loss = layer(x)[0].square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[2] < losses[0]
    layer.eval()
    export_inference(layer, tmp_path / "new" / "model")
    np.testing.assert_allclose(predict(tmp_path / "new" / "model", x.numpy())[0], layer(x)[0].numpy(), atol=1e-6)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    (tmp_path / "model.pdiparams").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path / "model")
    (tmp_path / "model.pdiparams").unlink()
    with pytest.raises(UserError, match="pdiparams is missing"):
        load(tmp_path / "model.json")
    (tmp_path / "a.pdmodel").write_bytes(b"not a program")
    (tmp_path / "a.pdiparams").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "a")
    (tmp_path / "a.pdmodel").write_bytes(b"")
    with pytest.raises(UserError, match="0 bytes"):
        load(tmp_path / "a")
    (tmp_path / "b.pdmodel").write_bytes(b"x")
    with pytest.raises(UserError, match="2 models"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pdparams", "model.onnx"])
def test_a_file_without_a_program_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    (tmp_path / "model.pdiparams").write_bytes(b"1")
    with pytest.raises(UserError, match="an ONNX file" if name.endswith("onnx") else "weights without a graph"):
        load(tmp_path / name)

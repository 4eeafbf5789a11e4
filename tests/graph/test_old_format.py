"""Export to Paddle 2's format: Paddle Inference and our own `load` give what the graph gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from graph_nets import CALLS, SPEC, TINY, Call, TwoInputs, image, seeded
from paddle.static import InputSpec

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, capture, export_inference, flatten, insert_node, load
from paddleseg_slim.models.zoo import ZOO, build


def predict(prefix: Path, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run exported files with Paddle Inference."""
    from paddle.inference import Config, create_predictor

    config = Config(f"{prefix}.pdmodel", f"{prefix}.pdiparams")
    config.disable_glog_info()
    config.disable_mkldnn()
    predictor = create_predictor(config)
    for name, array in arrays.items():
        predictor.get_input_handle(name).copy_from_cpu(array)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def assert_equal_everywhere(layer: GraphLayer, prefix: Path, *inputs: Any) -> None:
    """In memory, in Paddle Inference and loaded again."""
    layer.eval()
    expected = [leaf.numpy() for leaf in flatten(layer(*inputs)) if isinstance(leaf, paddle.Tensor)]
    loaded = [leaf.numpy() for leaf in flatten(load(prefix)(*inputs))]
    inferred = predict(prefix, {value.name: item.numpy() for value, item in zip(layer.eval_graph.inputs, inputs)})
    assert len(expected) == len(loaded) == len(inferred) > 0
    for a, b, c in zip(expected, loaded, inferred):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
        scale = max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(c, a, rtol=1e-5, atol=1e-5 * scale)  # it folds normalisations


@pytest.mark.parametrize("name", TINY)
def test_a_net_at_any_size(name: str, tmp_path: Path) -> None:
    layer = capture(seeded(TINY[name]), SPEC, verify=False)
    written = export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert [path.name for path in written] == ["model.pdmodel", "model.pdiparams"]
    for size in ((64, 96), (32, 48)):
        assert_equal_everywhere(layer, tmp_path / "model", image(2, *size))


def test_at_a_fixed_size_shapes_are_constants(tmp_path: Path) -> None:
    layer = capture(seeded(TINY["decoder"]), SPEC, verify=False)
    export_inference(layer, tmp_path / "model", file_format="pdmodel", input_shapes=[(2, 3, 32, 48)])
    assert_equal_everywhere(layer, tmp_path / "model", image(2, 32, 48))
    assert not any(node.op in ("shape", "shape64") for node in load(tmp_path).eval_graph.nodes)


def test_several_inputs(tmp_path: Path) -> None:
    layer = capture(seeded(TwoInputs), [InputSpec([None, 6], "float32", "a"), InputSpec([None, 3], "float32", "b")])
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert_equal_everywhere(layer, tmp_path / "model", paddle.rand([4, 6]), paddle.rand([4, 3]))


@pytest.mark.parametrize("name", CALLS)
def test_ops(name: str, tmp_path: Path) -> None:
    layer = capture(Call(name), [InputSpec([None, 3, None, None], "float32", "x")], verify=False)
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert_equal_everywhere(layer, tmp_path / "model", image(2, 16, 24))
    assert_equal_everywhere(layer, tmp_path / "model", image(2, 32, 20))


def test_activations(tmp_path: Path) -> None:
    net = paddle.nn.Sequential(*(getattr(paddle.nn, kind)() for kind in (
        "Sigmoid", "Silu", "Swish", "Hardswish", "Hardsigmoid", "ReLU6", "Mish", "GELU", "ELU", "Softplus", "Tanh",
        "LeakyReLU", "SELU", "LogSigmoid", "Softsign", "Hardtanh",
    )))  # fmt: skip
    layer = capture(net, SPEC, verify=False)
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert_equal_everywhere(layer, tmp_path / "model", image(2, 16, 24) * 3)


def test_quantizers_are_written_with_paddles_own_ops(tmp_path: Path) -> None:
    layer = capture(seeded(TINY["seg"]), SPEC, verify=False)
    layer.add_tensor("step", paddle.to_tensor(0.05))
    layer.add_parameter_value("step")
    graph = layer.eval_graph
    grid = {"bits": 8, "axis": None, "qmin": -127, "qmax": 127}
    insert_node(graph, graph.node("head").value("input"), "slim.fake_quant", "head.quant", attrs=grid,
                inputs={"scale": graph.parameters["step"], "zero_point": None})  # fmt: skip
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert_equal_everywhere(layer, tmp_path / "model", image(2, 64, 96))


def test_the_command_writes_it(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "export.py",
        "--config",
        "configs/fashion/fastscnn_fashion5_128x128.yml",
        "--from_scratch",
    ]
    result = subprocess.run(
        [*command, "--format", "pdmodel", "--input_shape", "64", "64", "--save_dir", str(tmp_path / "out")],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "difference is" in result.stdout + result.stderr  # it was run in Paddle Inference
    deploy = yaml.safe_load((tmp_path / "out" / "deploy.yaml").read_text())["Deploy"]
    assert deploy["model"] == "model.pdmodel" and not (tmp_path / "out" / "model.json").exists()
    assert load(tmp_path / "out")(image(1, 64, 64))[0].shape == [1, 64, 64]


def test_no_path_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    layer = capture(seeded(TINY["seg"]), SPEC, verify=False)
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    content = (tmp_path / "model.pdmodel").read_bytes()
    assert b".py" not in content and b"File " not in content


def test_the_program_of_the_other_format_goes(tmp_path: Path) -> None:
    layer = capture(seeded(TINY["seg"]), SPEC, verify=False)
    export_inference(layer, tmp_path / "model")
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pdiparams", "model.pdmodel"]
    export_inference(layer, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pdiparams"]
    with pytest.raises(UserError, match="no file format 'onnx'"):
        export_inference(layer, tmp_path / "model", file_format="onnx")


def test_an_op_without_an_old_form_is_named(tmp_path: Path) -> None:
    layer = capture(seeded(TINY["seg"]), SPEC, verify=False)
    node = layer.eval_graph.node("head")
    node.op = "tensor_unfold"  # views came with Paddle 3
    with pytest.raises(UserError, match=r"'head' \(tensor_unfold\): it has no op 'tensor_unfold'"):
        export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_all_zoo_models(name: str, tmp_path: Path) -> None:
    layer = capture(seeded(lambda: build(name, 5)), SPEC, verify=False)
    export_inference(layer, tmp_path / "model", file_format="pdmodel")
    assert_equal_everywhere(layer, tmp_path / "model", image(1, 128, 160))

"""Reading checkpoints: what Paddle and NumPy write comes back, nothing else is executed."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from paddleseg_slim.errors import UserError
from paddleseg_slim.train import pdparams
from paddleseg_slim.train.weights import load_weights


def net() -> paddle.nn.Layer:
    return paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Conv2D(4, 5, 1))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_writes(protocol: int, tmp_path: Path) -> None:
    path = str(tmp_path / "m.pdparams")
    state = net().state_dict()
    paddle.save(state, path, protocol=protocol)
    arrays = pdparams.read_arrays(path)
    assert set(arrays) == set(state)
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in state.items())


def test_reads_optimizer_states_numbers_and_nested_tensors(tmp_path: Path) -> None:
    path = str(tmp_path / "m.pdopt")
    content = {"step": 3, "rate": 0.5, "list": [paddle.ones([2]), {"x": paddle.zeros([1], "int64")}], "none": None}
    paddle.save(content, path)
    found = pdparams.read(path)
    assert found["step"] == 3
    assert found["rate"] == 0.5
    assert found["none"] is None
    assert np.array_equal(found["list"][0], [1, 1])
    assert np.array_equal(found["list"][1]["x"], [0])


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_reads_plain_numpy_pickles(kind: type, tmp_path: Path) -> None:
    for protocol in range(2, 6):
        path = tmp_path / f"{protocol}.pdparams"
        path.write_bytes(pickle.dumps(kind(a=np.arange(6.0).reshape(2, 3), b=np.float32(2)), protocol=protocol))
        arrays = pdparams.read(path)
        assert np.array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
        assert arrays["b"] == 2


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
        b"cpaddleseg_slim.files\natomic_file\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"cnumpy\nload\n.",
    ],
)
def test_refuses_every_global_but_arrays_by_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pdparams"
    path.write_bytes(data)
    with pytest.raises(UserError, match="is refused: it would load"):
        pdparams.read(path)


def test_any_damage_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "m.pdparams"
    paddle.save(net().state_dict(), str(path))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for length in rng.integers(1, len(whole) - 1, 40):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            pdparams.read(path)
        refused += 1
    for _ in range(60):  # flipped bytes: read with other numbers, or refused, but nothing else
        damaged = bytearray(whole)
        damaged[int(rng.integers(0, 900))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(bytes(damaged))
        try:
            pdparams.read(path)
        except UserError:
            refused += 1
    assert refused > 40


def test_safetensors_and_bfloat16(tmp_path: Path) -> None:
    source, target = net(), net()
    arrays = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    save_file(arrays, tmp_path / "m.safetensors")
    report = load_weights(target, tmp_path / "m.safetensors")
    assert (report.matched, report.total) == (8, 8)
    assert np.array_equal(target[0].weight.numpy(), arrays["0.weight"])
    (tmp_path / "bad.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:200])
    with pytest.raises(UserError, match="safetensors"):
        load_weights(target, tmp_path / "bad.safetensors")
    halves = {name: tensor.astype("bfloat16") for name, tensor in source.state_dict().items()}
    paddle.save(halves, str(tmp_path / "half.pdparams"))
    load_weights(target, tmp_path / "half.pdparams")
    expected = halves["0.weight"].astype("float32").numpy()
    assert np.array_equal(target[0].weight.numpy(), expected)


def test_nothing_changes_when_a_file_does_not_fit(tmp_path: Path) -> None:
    model = net()
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    other = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Conv2D(4, 7, 1))
    paddle.save(other.state_dict(), str(tmp_path / "m.pdparams"))
    with pytest.raises(UserError, match="has 7 classes, the model has 5"):
        load_weights(model, tmp_path / "m.pdparams")
    assert all(np.array_equal(before[name], tensor.numpy()) for name, tensor in model.state_dict().items())
    report = load_weights(model, tmp_path / "m.pdparams", reset_head=True)
    assert report.reset == ("2.weight", "2.bias")
    assert np.array_equal(model[0].weight.numpy(), other[0].weight.numpy())
    assert np.array_equal(model[2].weight.numpy(), before["2.weight"])


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    model = net()
    model[0].bias.set_value(np.full(4, np.nan, np.float32))
    paddle.save(model.state_dict(), str(tmp_path / "m.pdparams"))
    with pytest.raises(UserError, match=r"0\.bias has NaN"):
        load_weights(net(), tmp_path / "m.pdparams")


def misfit(path: Path, content: paddle.nn.Layer, **options: Any) -> UserError:
    paddle.save(content.state_dict(), str(path))
    with pytest.raises(UserError) as error:
        load_weights(net(), path, **options)
    return error.value


def test_what_to_do_with_a_file_that_does_not_fit(tmp_path: Path) -> None:
    """The cause names a few tensors, the remedy is something to do."""
    path, config = tmp_path / "m.pdparams", "the config that this file was trained with"
    nothing = misfit(path, paddle.nn.LSTM(2, 2))
    assert "0/8 tensors match; only the model has 0.weight, 0.bias, 1.weight, ... (8); only the file" in nothing.cause
    assert nothing.remedy == f"Give weights of Sequential, or {config}."
    part = misfit(path, net()[:2])
    assert "6/8 tensors match; only the model has 2.weight, 2.bias." in part.cause and part.remedy == nothing.remedy
    conv, norm = paddle.nn.Conv2D, paddle.nn.BatchNorm2D
    classes = paddle.nn.Sequential(conv(3, 4, 3), norm(4), conv(4, 7, 1))
    assert "has 7 classes, the model has 5" in misfit(path, classes).cause
    assert misfit(path, classes).remedy == f"Give {config}."
    assert misfit(path, classes, reset_head=False).remedy.endswith("or --reset-head to keep all but the head.")
    narrow = misfit(path, paddle.nn.Sequential(conv(3, 2, 3), norm(2), conv(2, 5, 1)), reset_head=True)
    assert "7 tensors of other shapes (0.weight: [2, 3, 3, 3], in the model [4, 3, 3, 3])" in narrow.cause
    assert narrow.remedy == f"Give {config}; a pruned model is given by its folder graph/."

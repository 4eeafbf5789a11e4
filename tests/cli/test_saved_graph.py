"""A compressed model is given by its folder ``graph/`` or by the folder of the result that holds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny

from paddleseg_slim.cli import setup
from paddleseg_slim.config import load_config
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture, save
from paddleseg_slim.tasks import build_task


def test_the_folder_of_a_result_stands_for_the_graph_in_it(tmp_path: Path) -> None:
    task = build_task(load_config(tiny.write_config(tmp_path)))
    model = capture(task.build_model(), task.input_spec(), verify=False, fixed_size=(32, 32))
    model.eval()
    save(model, tmp_path / "pruned" / "graph")
    image = paddle.rand([1, 3, 32, 32])
    for given in ("pruned", "pruned/graph"):
        assert setup.saved_graph(str(tmp_path / given)) == tmp_path / "pruned" / "graph"
        loaded = setup.load_model(task, str(tmp_path / given))
        loaded.eval()
        np.testing.assert_array_equal(loaded(image)[0].numpy(), model(image)[0].numpy())
    assert setup.saved_graph(str(tmp_path)) is None
    with pytest.raises(UserError, match="is a folder"):
        setup.load_model(task, str(tmp_path))

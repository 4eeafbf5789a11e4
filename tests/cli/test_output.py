"""The folder of a run: what a killed process left half written is gone when the next one takes the folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest
from tiny import ROOT

from paddleseg_slim.cli.output import claimed
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file, atomic_folder

KILLED = """
import os, sys
from pathlib import Path
from paddleseg_slim.files import atomic_file, atomic_folder
run = Path(sys.argv[1])
with atomic_folder(run / "iter_2") as folder:
    (folder / "half").write_bytes(b"x")
    with atomic_file(run / "graph" / "weights.safetensors") as file:
        file.write_bytes(b"x")
        os._exit(9)
"""


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    with atomic_folder(tmp_path / "iter_1") as folder:
        (folder / "whole").write_bytes(b"x")
    with atomic_file(tmp_path / ".hidden") as file:
        file.write_bytes(b"x")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9 and len(list(tmp_path.rglob(".*.tmp*"))) == 2
    tempfile.mkdtemp(prefix=".export.", suffix=".tmp", dir=tmp_path)  # as the export makes its own
    (tmp_path / ".mine.old").mkdir()
    (tmp_path / "iter_3").mkdir()
    # killed between the two renames of a replacement
    (tmp_path / "iter_3").rename(tmp_path / ".iter_3.replaced-by-slim")
    with claimed(str(tmp_path), resume=True):
        pass
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"iter_1", "iter_1/whole", "iter_3", "graph", ".hidden", ".mine.old"}


def test_what_another_run_below_is_writing_is_left_alone(tmp_path):
    with claimed(str(tmp_path / "run")) as run, atomic_file(run / "model.onnx") as half:
        half.write_bytes(b"x")
        with claimed(str(tmp_path), overwrite=True):
            assert half.is_file()
        with pytest.raises(UserError, match="not empty"), claimed(str(tmp_path)):
            pass
        assert half.is_file()
    assert (tmp_path / "run" / "model.onnx").read_bytes() == b"x"


def test_a_folder_in_use_is_refused(tmp_path):
    """Failure mode I9."""
    with claimed(str(tmp_path)), pytest.raises(UserError, match="in use"), claimed(str(tmp_path), overwrite=True):
        pass


@pytest.mark.parametrize(("below", "what"), [("", "it"), ("deep/er", "{file}")])
def test_a_file_in_the_way_is_called_one(below, what, tmp_path):
    file = tmp_path / "out"
    file.write_bytes(b"x")
    asked = file / below if below else file
    with pytest.raises(UserError) as error, claimed(str(asked), overwrite=True):
        pass
    assert error.value.cause == f"{asked} cannot be written: {what.format(file=file)} is a file, no folder."
    assert error.value.remedy == "Give another --save_dir." and file.read_bytes() == b"x"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written \(.*[Nn]ame.*\)"), claimed(str(tmp_path / ("x" * 300))):
        pass

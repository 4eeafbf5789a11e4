"""The commands in the documents: every one fits its parser and names files that exist; the embedded ones run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from paddleseg_slim.chain import verbs
from paddleseg_slim.chain.verbs import Verb

DOCUMENTS = (
    *("README.md", "README_cn.md", "docs/tutorial.md", "docs/tutorial_cn.md", "docs/benchmarks.md"),
    *("docs/pruning.md", "docs/quantization.md", "docs/deployment.md"),
)
_BLOCK = re.compile(r"```shell\n(.*?)```", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Z_]+)=(\S.*)")
_OWN = ("configs/", "slim/", "benchmarks/", "paddleseg_slim/")


def commands(document: str) -> Iterator[list[str]]:
    """The words of every command in the shell blocks of a document, in order, variables replaced."""
    text = (tiny.ROOT / document).read_text(encoding="utf-8")
    variables: dict[str, str] = {}
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            assigned = _ASSIGNMENT.fullmatch(line)
            words = shlex.split(line, comments=True)
            if assigned:
                (variables[assigned[1]],) = shlex.split(assigned[2])
            elif words:
                yield words


def called(words: list[str]) -> tuple[str, list[str]] | None:
    """Verb and arguments of a command of this package; None for another."""
    if words[0] == "paddleseg-slim":
        return words[1].replace("-", "_"), words[2:]
    if words[0] == "python" and not words[1].startswith("benchmarks/"):
        return Path(words[1]).stem, words[2:]
    return None


def _cases() -> list[pytest.param]:
    return [
        pytest.param(words, id=f"{document}-{number}")
        for document in DOCUMENTS
        for number, words in enumerate(commands(document))
    ]


@pytest.mark.parametrize("words", _cases())
def test_every_command_of_a_document_is_one_that_exists(words: list[str]) -> None:
    for word in words:
        path = word.split("=", 1)[-1]
        if path.startswith(_OWN):
            assert (tiny.ROOT / path).exists(), word
    call = called(words)
    if call is not None:
        parsed = verbs.check(Verb(call[0]), call[1], " ".join(words))
        if call[0] == "eval" and parsed.max_drop is not None:
            assert parsed.model_path or parsed.source_metrics, "the command refuses --max-drop without a source"
    elif words[0] == "make":
        targets = (tiny.ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", targets, re.MULTILINE), words
    else:
        assert words[0] in ("python", "pip", "export"), words


_SMALL = {
    **{"--retraining_iters": "2", "--iters": "2", "--save_interval": "2", "--batch_nums": "2", "--repeats": "5"},
    **{"--warmup": "1", "--interval": "10", "--threads": "1"},
}
_FEW = [f"{section}_dataset.{key}" for section in ("train", "val", "test") for key in ("num_samples=8", "size=[64,64]")]


def small(words: list[str]) -> list[str]:
    """The command with few images and steps."""
    call = called(words)
    assert call is not None
    verb, arguments = call
    parser = verbs.parser_of(Verb(verb))
    parsed = verbs.check(Verb(verb), arguments, " ".join(words))
    given = {name: value for name, value in _SMALL.items() if name in parser._option_string_actions}
    if verb == "train":
        given.pop("--repeats")  # of the data: nothing that makes it smaller
    if verb == "compare":
        given["--repeats"] = "100"  # it takes no fewer
    if verb == "prune":
        given["--sensitivity_images"] = "8"
    opts = ["--opts", *getattr(parsed, "opts", []), *_FEW] if hasattr(parsed, "opts") else []
    return [
        sys.executable,
        "-m",
        "paddleseg_slim",
        verb,
        *arguments,
        *(w for item in given.items() for w in item),
        *opts,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md"])
def test_the_commands_on_embedded_data_run_in_order(document: str, tmp_path: Path) -> None:
    """Those that train a model of Paddle's quick start need its data set; recipes have tests of their own."""
    for folder in ("configs", "paddleseg_slim"):
        (tmp_path / folder).symlink_to(tiny.ROOT / folder, target_is_directory=True)
    environment = {**tiny.environment(), "PYTHONPATH": str(tiny.ROOT)}
    ran = 0
    for words in commands(document):
        call = called(words)
        if call is None or call[0] == "compress" or "quick_start" in " ".join(words):
            continue
        done = subprocess.run(
            small(words), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr}"
        ran += 1
    assert ran >= 2 and any(os.scandir(tmp_path / "output"))

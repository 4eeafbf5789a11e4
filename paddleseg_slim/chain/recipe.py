"""What a recipe says: where the chain begins, its steps, or a goal and the tries to reach it.

    config: ../fashion/fastscnn_fashion5_128x128.yml
    model: ../fashion/weights/fastscnn_fashion5_128x128/model.safetensors
    steps:
      - prune: {name: pruned, pruning_ratio: 0.3, retraining_iters: 300}
      - ptq: {name: int8}
      - bench: {model: ["pruned=@pruned", "int8=@int8"], engine: [onnxruntime, openvino]}
      - report

A step's options are those of the command of its name. ``@name`` in an option is the model that the step ``name`` made,
or its folder where files are measured (``bench``, ``eval``); ``@name/file`` is a file or folder in it. A step takes the
model of the last step before it that made one, unless its key ``from`` names another; ``start`` is the model that the
chain begins with. A ``train`` step besides trains a teacher, which other steps refer to.

A step may name a ``config`` of its own, as the training of a teacher does; its ``opts`` come after those of the run.
``model_path``, ``save_dir`` and the flags that resume or overwrite are the chain's, and refused in a step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.chain.state import FILE_NAME as STATE
from paddleseg_slim.chain.verbs import VERBS, Verb
from paddleseg_slim.config.merge import parse_opts, with_values
from paddleseg_slim.config.signature import check_arguments
from paddleseg_slim.config.yaml_file import read_mapping
from paddleseg_slim.errors import UserError, nearest

START = "start"
_KEYS = ("description", "config", "model", "common", "from_scratch", "steps", "goal", "tries")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REFERENCE = re.compile(r"@([A-Za-z0-9][A-Za-z0-9_.-]*)(/?)")


@dataclass(frozen=True)
class Step:
    """One command of a chain.

    Attributes:
        name: unique in the recipe; its folder and its stage in the report are called so.
        verb: row of `VERBS`.
        options: the command's options by name, references not yet replaced.
        source: name of the step whose model it takes; empty for one that takes none.
    """

    name: str
    verb: str
    options: dict[str, Any]
    source: str = ""

    @property
    def row(self) -> Verb:
        """How the step's command is called."""
        return VERBS[self.verb]

    def references(self) -> tuple[str, ...]:
        """Names of the steps that the options refer to."""
        return tuple(dict.fromkeys(name for text in _texts(self.options) for name, _ in _REFERENCE.findall(text)))


@dataclass(frozen=True)
class Goal:
    """What the best of several tries has to reach.

    Attributes:
        speedup: time of ``base`` / time of the result, in one benchmark.
        max_drop: accuracy that may be lost, in points of 0.01 (mIoU 0.70 -> 0.697 is 0.3).
        base: step whose stage is compared with.
        engine: engine of the speed-up; empty: the fastest one measured.
    """

    speedup: float = 1.0
    max_drop: float = 100.0
    base: str = START
    engine: str = ""


@dataclass(frozen=True)
class Try:
    """Steps that may reach the goal; their names begin with the try's."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe as read; see the module.

    Attributes:
        path: of the file.
        config: config of the model and its data.
        model: weights or folder that the chain begins with; None when its first step trains.
        steps: in order.
        goal, tries: tried in order after ``steps`` until the goal is reached; None and empty without a goal.
        common: options for every command that has them.
        description: for the log.
    """

    path: Path
    config: Path
    model: Path | None
    steps: tuple[Step, ...]
    goal: Goal | None = None
    tries: tuple[Try, ...] = ()
    common: dict[str, Any] = field(default_factory=dict)
    description: str = ""

    def all_steps(self) -> Iterator[Step]:
        """All steps, those of the tries included."""
        yield from self.steps
        for item in self.tries:
            yield from item.steps


def load_recipe(path: str | Path, opts: Sequence[str] = (), *, from_scratch: bool = False) -> Recipe:
    """Read a recipe; whether the commands take its options is checked by `verbs.check`.

    Args:
        path: YAML file; paths in it are relative to it, or to the working directory.
        opts: changes, ``steps.0.prune.pruning_ratio=0.5``.
        from_scratch: train the first model (options: the recipe's ``from_scratch``) instead of reading it.

    Raises:
        UserError: a key, a step, a reference or a file is wrong.
    """
    file = Path(path)
    data = with_values(read_mapping(file), parse_opts(opts), ("common", "from_scratch"))
    if "_base_" in data or "train_dataset" in data:
        raise UserError(f"{file} is a config, not a recipe.", "Recipes are in configs/recipes; they name a config.")
    for key in data:
        if key not in _KEYS:
            raise UserError(f"{file}: unknown key {key!r}.", nearest(str(key), _KEYS))
    if "config" not in data:
        raise UserError(f"{file}: config is missing.", "Name the config of the model: 'config: ../fashion/x.yml'.")
    _check_kinds(data, file)
    if bool(data.get("goal")) != bool(data.get("tries")):
        raise UserError(f"{file}: goal and tries belong together.", "Give both, or neither.")
    if not data.get("steps") and not data.get("goal"):
        raise UserError(f"{file}: there is nothing to do.", "Give steps, or a goal and tries.")
    listed, trains = _beginning(data, file, from_scratch)
    steps = _steps(_beside(listed, file.parent), f"{file}: steps", {})
    model = None if trains else _existing(file, data["model"])
    goal: Goal | None = None
    tries: tuple[Try, ...] = ()
    if data.get("goal"):
        goal = Goal(**check_arguments(Goal, data["goal"], "goal"))
        tries = tuple(_tries(_beside(data["tries"], file.parent), file, steps))
    recipe = Recipe(
        *(file, _existing(file, data["config"]), model, steps, goal, tries),
        *(dict(data.get("common") or {}), str(data.get("description") or "")),
    )
    _check_names(recipe)
    return recipe


def _check_kinds(data: Mapping[str, Any], file: Path) -> None:
    kinds = {"common": dict, "from_scratch": dict, "goal": dict, "steps": list}
    for key, kind in kinds.items():
        if data.get(key) and not isinstance(data[key], kind):
            wanted = "a list" if kind is list else "a mapping"
            raise UserError(f"{file}: {key} is {data[key]!r}.", f"It must be {wanted}.")


def _beginning(data: Mapping[str, Any], file: Path, from_scratch: bool) -> tuple[list[Any], bool]:
    """The steps as listed, with the training of the first model called `START`; and whether there is one.

    Raises:
        UserError: there is no first model.
    """
    listed = list(data.get("steps") or [])
    first = listed[0] if listed else None
    trains = first == "train" or (isinstance(first, Mapping) and list(first) == ["train"])
    if trains and not data.get("model"):
        options = first["train"] if isinstance(first, Mapping) else {}
        return [{"train": {**(options or {}), "name": START}}, *listed[1:]], True
    if from_scratch:
        return [{"train": {**(data.get("from_scratch") or {}), "name": START}}, *listed], True
    if not data.get("model"):
        raise UserError(f"{file}: model is missing.", "Name the weights to begin with, or give --from_scratch.")
    return listed, False


def _tries(data: Any, file: Path, before: Sequence[Step]) -> Iterator[Try]:
    if not isinstance(data, list):
        raise UserError(f"{file}: tries is no list.", "Write a list of {name: ..., steps: [...]}.")
    for index, item in enumerate(data):
        where = f"{file}: tries[{index}]"
        if not isinstance(item, Mapping) or set(item) != {"name", "steps"}:
            raise UserError(f"{where} is {item!r}.", "A try has a name and steps.")
        yield Try(str(item["name"]), _steps(item["steps"], where, {s.name: s for s in before}, f"{item['name']}-"))


def _steps(data: Any, where: str, before: Mapping[str, Step], prefix: str = "") -> tuple[Step, ...]:
    if not isinstance(data, list):
        raise UserError(f"{where} is no list.", "Write '- prune: {pruning_ratio: 0.3, ...}' for each step.")
    known = dict(before)
    chained = [s.name for s in known.values() if s.row.makes_model and s.verb != "train"]
    last = chained[-1] if chained else START
    steps = []
    for index, item in enumerate(data):
        step = _step(item, f"{where}[{index}]", known, last, prefix)
        known[step.name] = step
        if step.row.makes_model and (step.verb != "train" or step.name == START):  # others train a teacher
            last = step.name
        steps.append(step)
    return tuple(steps)


def _step(item: Any, where: str, known: Mapping[str, Step], last: str, prefix: str) -> Step:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise UserError(f"{where} is {item!r}.", "A step is one command with its options: 'prune: {...}'.")
    ((verb, options),) = item.items()
    if verb not in VERBS:
        raise UserError(f"{where}: unknown command {verb!r}.", nearest(str(verb), VERBS))
    if not isinstance(options or {}, Mapping):
        raise UserError(f"{where}.{verb} is {options!r}.", "Write its options as a mapping: {pruning_ratio: 0.3}.")
    options = dict(options or {})
    name = prefix + str(options.pop("name", verb))

    def own(reference: str) -> str:
        full = prefix + reference
        if full in known or reference in known or reference == START:
            return full if full in known else reference
        raise UserError(f"{where}: there is no step {reference!r} before it.", nearest(reference, [START, *known]))

    source = own(str(options.pop("from", last))) if VERBS[verb].takes_model else ""
    if source in known and known[source].row.makes_model is None:
        raise UserError(f"{where}: the step {source!r} makes no model.", "Name one that does in 'from'.")
    return Step(name, verb, _replaced(options, own), source)


def _replaced(value: Any, own: Any) -> Any:
    """``value`` with the references in its texts renamed by ``own``."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: f"@{own(match[1])}{match[2]}", value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, own) for key, item in value.items()}
    return [_replaced(item, own) for item in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def resolve(value: Any, paths: Mapping[str, tuple[Path, Path]]) -> Any:
    """``value`` with every ``@name`` replaced by the first of its paths, ``@name/`` by the second."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: paths[match[1]][bool(match[2])].as_posix() + match[2], value)
    if isinstance(value, Mapping):
        return {key: resolve(item, paths) for key, item in value.items()}
    return [resolve(item, paths) for item in value] if isinstance(value, list) else value


def _beside(value: Any, folder: Path) -> Any:
    """``value`` with every text that names a file beside the recipe replaced by that file's path."""
    if isinstance(value, Mapping):
        return {key: _beside(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_beside(item, folder) for item in value]
    if isinstance(value, str) and "/" in value and not value.startswith("@") and (folder / value).is_file():
        return os.path.normpath(folder / value)
    return value


def _existing(file: Path, path: Any) -> Path:
    for candidate in (file.parent / str(path), Path(str(path))):
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    raise UserError(
        f"{file}: {path} does not exist (looked beside the recipe and in the working directory).",
        "Correct the path, or give --from_scratch if it is the model.",
    )


def _check_names(recipe: Recipe) -> None:
    names = [step.name for step in recipe.all_steps()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(f"{recipe.path}: a step is called {name!r}.", "Use letters, digits, '_', '-' and '.'.")
        if names.count(name) > 1:
            raise UserError(f"{recipe.path}: two steps are called {name!r}.", "Give one of them a 'name'.")
        if name == STATE or (name == START and recipe.model is not None):
            raise UserError(f"{recipe.path}: a step is called {name!r}.", "That name is taken: give another.")
    if recipe.goal and recipe.goal.base not in [START, *(step.name for step in recipe.steps)]:
        raise UserError(f"{recipe.path}: goal.base is {recipe.goal.base!r}.", nearest(recipe.goal.base, names))

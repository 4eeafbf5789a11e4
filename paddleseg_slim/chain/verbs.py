"""The commands of which chains are made, and how a step's options become a command line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.cli import arguments
from paddleseg_slim.cli.runner import Parser
from paddleseg_slim.errors import UserError, nearest


def _trained(folder: Path) -> Path:
    """The model that a training left: the best one, or the last one where none was evaluated."""
    best = folder / "best_model" / "model.pdparams"
    if best.is_file():
        return best
    steps = {int(path.name[5:]): path for path in folder.glob("iter_*") if path.name[5:].isdigit()}
    return steps[max(steps)] / "model.pdparams" if steps else best


def _graph(folder: Path) -> Path:
    """The saved graph that a compression left, in its folder or in ``graph/``."""
    return folder / "graph" if (folder / "graph" / "graph.json").is_file() else folder


_OWN = {
    "{folder}": "Leave it out; give the run's --save_dir.",
    "{model}": "Leave it out: a step takes the model of the step before, or of the one that its key 'from' names.",
    "{stages}": "Leave it out: it shows what the steps before it left.",
}
"""What a chain gives to its steps and no step chooses, by the place in `Verb.given`; what to do instead."""

INPUTS = (
    *("config", "model_path", "teacher_config", "teacher_model_path", "sensitivity_file", "source_metrics"),
    *("images", "model", "models"),
)
"""Options, by their names in the parsed arguments, of files and folders that a command reads."""


@dataclass(frozen=True)
class Verb:
    """How a command is called in a chain.

    Attributes:
        command: its name on the command line.
        given: what the chain itself gives, argument -> text with ``{config}``, ``{model}`` (of the source),
            ``{folder}`` (of the step), ``{run}`` (of the chain), ``{stages}`` (folders of the steps before). A step
            may name another config; see `_OWN` for what it may not choose.
        takes_model: whether it works on a model.
        makes_model: what the next step takes, of the step's folder; None for a command that makes no model.
        fixed: options that the verb stands for.
        sees_all: whether it reads the stages of all steps before it.
    """

    command: str
    given: dict[str, str] = field(default_factory=dict)
    takes_model: bool = True
    makes_model: Callable[[Path], Path] | None = _graph
    fixed: dict[str, Any] = field(default_factory=dict)
    sees_all: bool = False

    @property
    def arguments(self) -> dict[str, str]:
        """`given`, or what most commands take."""
        return self.given or _COMMON


_COMMON = {"config": "{config}", "model_path": "{model}", "save_dir": "{folder}"}

VERBS: dict[str, Verb] = {
    "train": Verb(
        "train",
        given={"config": "{config}", "save_dir": "{folder}"},
        takes_model=False,
        makes_model=_trained,
    ),
    "prune": Verb("prune"),
    "sparsify": Verb("prune", fixed={"method": "gmp"}),
    "distil": Verb(
        "distill",
        given={"student_config": "{config}", "model_path": "{model}", "save_dir": "{folder}"},
    ),
    "ptq": Verb("post_quant"),
    "qat": Verb("quant"),
    "export": Verb("export", makes_model=None),
    "eval": Verb("eval", makes_model=None, takes_model=False, given={"config": "{config}", "save_dir": "{folder}"}),
    "bench": Verb("bench", makes_model=None, takes_model=False, given={"save_dir": "{folder}"}),
    "report": Verb(
        "report",
        given={"run_dirs": "{stages}", "save_path": "{run}/report.html"},
        takes_model=False,
        makes_model=None,
        sees_all=True,
    ),
}
"""Commands by the name that recipes use."""


def parser_of(verb: Verb) -> argparse.ArgumentParser:
    """The command's own parser.

    Raises:
        UserError: (by the parser, when it is used) the options are wrong.
    """
    module = importlib.import_module(f"paddleseg_slim.cli.{verb.command}")
    parser = Parser(prog=f"paddleseg-slim {verb.command}", allow_abbrev=False, add_help=False)
    module.add_arguments(parser)
    return parser


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The parser's actions by every name that an option may be written under in a recipe."""
    names = {}
    for action in parser._actions:
        for name in (action.dest, *(text.lstrip("-") for text in action.option_strings)):
            names[name] = names[name.replace("-", "_")] = action
    return names


def by_destination(verb: Verb, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a step by their names in the parsed arguments, however they are written; unknown ones as they are."""
    actions = _actions(parser_of(verb))
    return {actions[name].dest if name in actions else name: value for name, value in options.items()}


def has_option(parser: argparse.ArgumentParser, name: str) -> bool:
    """Whether the command knows the option."""
    return name in _actions(parser)


def command_line(
    verb: Verb, options: Mapping[str, Any], values: Mapping[str, Any], common: Mapping[str, Any], where: str
) -> list[str]:
    """Arguments of the command.

    Args:
        verb: the command.
        options: of the step, references replaced.
        values: of the places in `Verb.given`; an argument whose place is empty is left out.
        common: options that are given to every command that has them.
        where: the step, for messages.

    Raises:
        UserError: an option that the command does not have.
    """
    actions = _actions(parser_of(verb))
    given = {name: _filled(text, values) for name, text in verb.arguments.items()}
    for name in given:
        if name not in actions:
            raise UserError(f"{where}: the command {verb.command} has no option {name}.", "It does not fit a chain.")
    owned = {actions[name].dest: text for name, text in verb.arguments.items() if text in _OWN}
    chosen: dict[str, tuple[argparse.Action, Any]] = {}
    for layer in (common, given, verb.fixed):
        for name, value in layer.items():
            if name in actions and value not in ("", None, []):
                chosen[actions[name].dest] = (actions[name], value)
    for name, value in options.items():
        if name not in actions:
            raise UserError(f"{where}: the command {verb.command} has no option {name!r}.", nearest(name, actions))
        place = owned.get(actions[name].dest)
        if place is not None:
            raise UserError(f"{where}: {name} is not for a step to choose.", _OWN[place])
        chosen[actions[name].dest] = (actions[name], value)
    options_first = sorted(chosen.values(), key=lambda item: bool(item[0].option_strings))  # positionals first
    return [text for action, value in options_first for text in _texts(action, value, where)]


def _filled(text: str, values: Mapping[str, Any]) -> Any:
    """``text`` with its places filled; a text that is one place becomes its value, a list too."""
    return values[text[1:-1]] if text[1:-1] in values else text.format(**values)


def _texts(action: argparse.Action, value: Any, where: str) -> list[str]:
    """An option as the command line has it."""
    if value is None and "none" in (action.choices or ()):
        value = "none"  # which YAML reads as a null
    if value is None:
        return []
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise UserError(f"{where}.{action.dest} is {value!r}.", "It is a switch: true or false.")
        return [action.option_strings[-1]] if value else []
    if isinstance(value, Mapping):
        items = [f"{key}={item}" for key, item in value.items()]
    else:
        items = [str(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if not action.option_strings:
        return items
    return [f"{action.option_strings[-1]}={items[0]}"] if action.nargs is None else [action.option_strings[-1], *items]


def check(verb: Verb, argv: Iterable[str], where: str) -> argparse.Namespace:
    """Parse ``argv`` with the command's own parser.

    Raises:
        UserError: it does not take them; ``where`` names the step.
    """
    try:
        return parser_of(verb).parse_args(list(argv))
    except UserError as error:
        raise UserError(f"{where}: {error.cause}", error.remedy) from None


def preflight(verb: Verb, args: argparse.Namespace, folder: Path, where: str) -> None:
    """Say what is wrong with parsed arguments before anything runs.

    Besides what the parser knows: the files that the command reads (`INPUTS`) exist, and what the function ``check`` of
    its module says, if there is one.

    Args:
        verb: the command.
        args: its parsed arguments.
        folder: of the chain; what is in it will be made by other steps.
        where: the step, for messages.

    Raises:
        UserError: something is wrong; ``where`` names the step.
    """
    for name in INPUTS:
        values = getattr(args, name, None) or []
        for text in [values] if isinstance(values, str) else values:
            path = Path(arguments.named(text)[1] if name == "models" else text)
            if folder not in path.parents and not _exists(path):
                raise UserError(f"{where}: {name} {path} does not exist.", "Correct it, or name a step: @STEP.")
    check_arguments = getattr(importlib.import_module(f"paddleseg_slim.cli.{verb.command}"), "check", None)
    if check_arguments is not None:
        try:
            check_arguments(args)
        except UserError as error:
            raise UserError(f"{where}: {error.cause}", error.remedy) from None


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder, or an exported model that is named without its suffix."""
    return path.exists() or any(path.with_name(path.name + suffix).exists() for suffix in (".json", ".pdmodel"))

"""What a chain will do: the command line of every step, what its result depends on, and why it has to run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.chain import state as states
from paddleseg_slim.chain import verbs
from paddleseg_slim.chain.recipe import START, Recipe, Step, resolve
from paddleseg_slim.chain.state import Record, State
from paddleseg_slim.config import Config, load_config
from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.files import sha256
from paddleseg_slim.version import __version__

_NO_EFFECT = ("threads", "num_workers", "log_iters", "keep_checkpoint_max", "use_vdl", "title", "open", "debug")
"""Options that change nothing in what a command makes."""

_RESUMES = "Leave it out: give --resume or --overwrite of the chain."
_OF_THE_CHAIN = {
    **dict.fromkeys(("resume", "resume_model", "overwrite"), _RESUMES),
    "slim_config": "Leave it out: write its methods as steps.",
}
"""Options of commands that mean nothing in a step; what to do instead."""

KEEP, RESUME, RUN = "keep", "resume", "run"


@dataclass(frozen=True)
class Decision:
    """What to do with a step, and why.

    Attributes:
        action: `KEEP` its result, `RESUME` it, or `RUN` it anew.
        reasons: in words, at least one.
    """

    action: str
    reasons: tuple[str, ...]


@dataclass
class Plan:
    """A recipe in a folder.

    Attributes:
        recipe: the recipe.
        folder: of the run.
        opts: changes of the config, ``KEY=VALUE``.
        config: the resolved config; a step may name another (`config_of`).
    """

    recipe: Recipe
    folder: Path
    opts: Sequence[str] = ()
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        self.opts = [*_opts(self.recipe.common.get("opts")), *self.opts]
        self.config = load_config(self.recipe.config, self.opts)
        self.steps = {step.name: step for step in self.recipe.all_steps()}

    def check(self) -> None:
        """Check every step's options: with its command's own parser, and what the command can say before it runs.

        Raises:
            UserError: a command does not take them; a file is missing; no command takes a common option.
        """
        for step in self.steps.values():
            where = f"{self.recipe.path}: {step.name}"
            for name in step.options:
                if name.replace("-", "_") in _OF_THE_CHAIN:
                    raise UserError(
                        f"{where}: {name} is not for a step to choose.", _OF_THE_CHAIN[name.replace("-", "_")]
                    )
            args = verbs.check(step.row, self.arguments(step), where)
            verbs.preflight(step.row, args, self.folder, where)
            self.config_of(step)
        parsers = [verbs.parser_of(step.row) for step in self.steps.values()]
        for name in self.recipe.common:
            if name.replace("-", "_") in (*_OF_THE_CHAIN, "config", "model_path", "save_dir"):
                raise UserError(f"{self.recipe.path}: common.{name} is not for all steps.", "Leave it out.")
            if not any(verbs.has_option(parser, name) for parser in parsers):
                known = {a.dest for parser in parsers for a in parser._actions}
                raise UserError(f"{self.recipe.path}: common.{name}: no step has this option.", nearest(name, known))

    def config_of(self, step: Step) -> Config:
        """The resolved config that a step works with: its own ``config`` and ``opts``, besides those of the run."""
        own = verbs.by_destination(step.row, step.options)
        if not own.get("config") and not own.get("opts"):
            return self.config
        return load_config(own.get("config") or self.recipe.config, [*self.opts, *_opts(own.get("opts"))])

    def folder_of(self, step: Step) -> Path:
        """Where a step writes."""
        return self.folder / step.name

    def made(self, name: str) -> Path:
        """What the step ``name`` made: a model, or its folder."""
        if name == START and START not in self.steps:
            assert self.recipe.model is not None
            return self.recipe.model
        step = self.steps[name]
        folder = self.folder_of(step)
        return step.row.makes_model(folder) if step.row.makes_model else folder

    def reference(self, name: str, step: Step) -> tuple[Path, Path]:
        """What ``@name`` and the folder of ``@name/...`` mean in the options of ``step``."""
        model = self.made(name)
        folder = self.folder_of(self.steps[name]) if name in self.steps else model
        return (model if step.row.takes_model else folder), folder

    def before(self, step: Step) -> list[Step]:
        """The steps before ``step`` in its chain, in order; of the tries only its own."""
        chains = [self.recipe.steps, *((*self.recipe.steps, *item.steps) for item in self.recipe.tries)]
        chain = next(chain for chain in chains if step in chain)
        return list(chain[: chain.index(step)])

    def base_of(self, step: Step) -> str:
        """Stage of the model that the step is given; empty if no step before has left one."""
        if step.source not in ("", START):
            return step.source
        return START if step.source and any(s.source == START for s in self.before(step)) else ""

    def labels(self, step: Step) -> dict[str, str]:
        """Names of steps as the recipe has them in the step's try -> their full names."""
        item = next((item for item in self.recipe.tries if step in item.steps), None)
        return {s.name[len(item.name) + 1 :]: s.name for s in item.steps} if item else {}

    def arguments(self, step: Step) -> list[str]:
        """The arguments of the step's command."""
        before = self.before(step)
        options = resolve(step.options, {name: self.reference(name, step) for name in step.references()})
        own = _opts(verbs.by_destination(step.row, options).get("opts"))
        if own and verbs.has_option(verbs.parser_of(step.row), "opts"):
            options["opts"] = [*self.opts, *own]
        config_opts = {"opts": list(self.opts)} if self.opts else {}
        return verbs.command_line(
            step.row,
            options,
            {
                **{"config": str(self.recipe.config), "folder": str(self.folder_of(step)), "run": str(self.folder)},
                "model": str(self.made(step.source)) if step.source else "",
                "stages": [str(self.folder_of(s)) for s in before if s.name != START and not s.row.sees_all],
            },
            {**self.recipe.common, **config_opts},
            f"{self.recipe.path}: {step.name}",
        )

    def made_of(self, step: Step, state: State) -> dict[str, Any]:
        """All that the step's result depends on, by name."""
        parser = verbs.parser_of(step.row)
        common = {k: v for k, v in self.recipe.common.items() if verbs.has_option(parser, k)}
        options = {**common, **step.row.fixed, **step.options}
        names = dict.fromkeys([*filter(None, [step.source]), *step.references()])
        return {
            "command": step.row.command,
            "version": __version__,
            "config": states.config_digest(self.config_of(step).raw),
            "options": {k: v for k, v in options.items() if k not in _NO_EFFECT},
            "inputs": {name: self._input(name, state) for name in names},
            "files": self._files(options),
        }

    def _input(self, name: str, state: State) -> str:
        if name == START and START not in self.steps:
            return states.digest_of(self.made(START))
        record = state.steps.get(name)
        return record.digest if record and record.status == "done" else ""

    @staticmethod
    def _files(options: Mapping[str, Any]) -> dict[str, str]:
        """Hashes of the files that options name."""
        texts = [value for value in states.leaves(options).values() if isinstance(value, str)]
        return {text: sha256(text)[:16] for text in texts if len(text) < 4096 and Path(text).is_file()}

    def decide(self, step: Step, state: State, anew: set[str]) -> Decision:
        """Whether a step has to run.

        Args:
            step: the step.
            state: of the run so far.
            anew: steps before it that will run (of a dry run; their results are not known yet).
        """
        if step.row.sees_all:
            return Decision(RUN, ("it shows what the steps before it left",))
        record = state.steps.get(step.name)
        if record is None:
            return Decision(RUN, ("not run yet",))
        needs = {step.source, *step.references()} | (
            {s.name for s in self.before(step)} if step.row.sees_all else set()
        )
        pending = sorted(needs & anew)
        if pending:
            return Decision(RUN, (f"{', '.join(pending)} will be made anew",))
        reasons = self._changes(self.made_of(step, state), self.config_of(step).raw, record, state)
        if reasons:
            return Decision(RUN, tuple(reasons))
        if record.status != "done":
            return Decision(RESUME, ("it was interrupted",))
        lost = states.differences(states.outputs(self.folder_of(step)), record.files)
        if lost or not self.folder_of(step).is_dir():
            return Decision(RUN, ("its files are not those that it wrote: " + (lost or ["the folder is gone"])[0],))
        return Decision(KEEP, ("nothing changed",))

    @staticmethod
    def _changes(now: Mapping[str, Any], config: Mapping[str, Any], record: Record, state: State) -> list[str]:
        was = record.made_of
        reasons = []
        for key in ("command", "version"):
            if now[key] != was.get(key):
                reasons.append(f"{key} is {now[key]}, was {was.get(key)}")
        if now["config"] != was.get("config"):
            old = state.configs.get(str(was.get("config")), {})
            reasons += [f"config: {text}" for text in states.differences(config, old)]
        reasons += states.differences(now["options"], was.get("options", {}))
        for kind in ("inputs", "files"):
            new, old = now.get(kind, {}), was.get(kind, {})
            reasons += [f"{name} changed" for name in sorted({*new, *old}) if new.get(name) != old.get(name)]
        return reasons


def _opts(value: Any) -> list[str]:
    """The changes of the config that a step asks for: a list of ``KEY=VALUE``, or a mapping."""
    if isinstance(value, Mapping):
        return [f"{key}={item if isinstance(item, str) else json.dumps(item)}" for key, item in value.items()]
    return [value] if isinstance(value, str) else [str(item) for item in value or []]

"""The first step of the prune command: importance of the channels and curves of the groups, by the flags."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.cli import evaluation, runner
from paddleseg_slim.cli.prune_folder import PICTURE
from paddleseg_slim.cli.refit import of_one_size, refit_images, refit_images_count
from paddleseg_slim.cli.subset import evenly_spread
from paddleseg_slim.config import Config
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune import curves as curve_files
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.criteria import needs_gradients, needs_readers
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.prune.curves_picture import draw
from paddleseg_slim.prune.divergence import DivergenceCounts
from paddleseg_slim.prune.elimination import eliminations
from paddleseg_slim.prune.old_pickle import is_pickle, read_curves
from paddleseg_slim.prune.ranking import ranking_curves, scores
from paddleseg_slim.prune.readers import Reader, readers_of
from paddleseg_slim.prune.refit_curves import refit_curves
from paddleseg_slim.prune.running import images_that_fit
from paddleseg_slim.prune.sensitivity import (
    EXACT_RATIOS,
    FAST_IMAGES,
    FAST_RATIOS,
    TOGETHER,
    Data,
    analyse,
    weights_fingerprint,
)
from paddleseg_slim.prune.taylor import TAYLOR_IMAGES, gate_gradients, taylor_curves
from paddleseg_slim.tasks.base import Task
from paddleseg_slim.train import ranks
from paddleseg_slim.train.evaluate import batches
from paddleseg_slim.train.progress import Progress, share_done

IMAGES = {"fast": FAST_IMAGES, "refit": FAST_IMAGES, "taylor": TAYLOR_IMAGES}
"""How many images a mode looks at; others take all."""

INSTEAD = "l1_norm"
"""The criterion for groups that ``obs`` cannot judge, where what they cost is measured."""

CRITERION_IMAGES = 32
"""Images of the gradients that a criterion judges channels by."""

STATE = "sensitivity.rank{rank}.npz"
REFIT_STATE = "sensitivity.rank{rank}.json"

_MEASURE_AGAIN = "Delete it to measure again, or give another --save_dir."
_LEAVE_OUT = "Give what it was measured with: weights, data and flags; or leave --sensitivity_file out."


class Analysis:
    """Importance and curves of a model's groups.

    Args:
        args: the command's flags.
        config: of the run.
        task: of the run.
        folder: of the run.
        groups: of the model.
        threads: CPU threads of this process.
    """

    def __init__(
        self, args: argparse.Namespace, config: Config, task: Task, folder: Path, groups: ChannelGroups, threads: int
    ) -> None:
        self.args, self.config, self.task, self.folder, self.groups = args, config, task, folder, groups
        self.threads = threads
        self.path = folder / curve_files.FILE_NAME
        self.samples = evenly_spread(task.val_dataset(), args.sensitivity_images or IMAGES.get(args.sensitivity))
        self.gradients: dict[str, np.ndarray] | None = None
        self.refits = needs_readers(args.criterion) or args.sensitivity == "refit"
        self._found: dict[str, list[Reader]] | None = None

    def check(self) -> None:
        """Read the curves that are there already, to say now what is wrong with them.

        Raises:
            UserError: they are damaged or stale, or of another model.
        """
        if self.known is not None and not self.args.sparse_iters:
            self._compare(self.known, self.fingerprint())

    def run(self) -> tuple[dict[str, np.ndarray], Curves]:
        """Importance of every channel and the curves; both files of the curves are written.

        Raises:
            UserError: a file of an earlier run is stale, or the model is not trained.
        """
        curves, fingerprint = self.known, self.fingerprint()
        if curves is not None:
            self._compare(curves, fingerprint)
        importance = curves.importance() if curves else None
        if importance is None:
            if needs_gradients(self.args.criterion) or self.args.sensitivity == "taylor":
                self.gradients = self._gradients()
            importance = self._importance()
        else:
            runner.log("Sensitivities and the order of the channels: %s.", self.args.sensitivity_file or self.path)
        if self.args.sensitivity_file and is_pickle(self.args.sensitivity_file):
            told = "%s does not tell the weights it was measured with: take care that they are these."
            runner.log(told, self.args.sensitivity_file)
        if curves is None:
            curves = self._measure(importance, fingerprint)
        if paddle.distributed.get_rank() == 0:
            curves.write(self.path)
        self._show(curves)
        self._say_left(curves)
        return importance, curves

    def _say_left(self, curves: Curves) -> None:
        """Say which groups have no curve."""
        left = [g.name for g in self.groups.groups if g.name not in curves.groups]
        if left:
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            runner.log("No curve, so they stay as they are: %s%s.", ", ".join(left[:5]), more)

    def _importance(self) -> dict[str, np.ndarray]:
        """Scores of the channels of every group that can be judged."""
        criterion = self.args.criterion
        if not needs_readers(criterion):
            importance = scores(self.groups, criterion, self.gradients, self.args.seed)
        else:
            with Progress(len(self.readers), "[ELIMINATION]") as bar:
                removal = eliminations(self.readers, lambda n, of: bar.step(n - bar.done))
            removal = {name: ranks.of_the_first(values) for name, values in removal.items()}
            importance = scores(self.groups, criterion, elimination=removal)
        left = [g.name for g in self.groups.groups if g.name not in importance]
        if left and needs_readers(criterion) and self.args.sensitivity != "none":
            where = f"{len(left)} groups" if len(left) > 1 else left[0]
            runner.log("No layer can make up for channels of %s: %s ranks them.", where, INSTEAD)
            others = scores(self.groups, INSTEAD)
            return {**importance, **{name: others[name] for name in left if name in others}}
        return importance

    def _show(self, curves: Curves) -> None:
        if curves.mode == "ranking":
            runner.log("Ranking: %s; no sensitivity was measured.", self.path)
            return
        if paddle.distributed.get_rank() == 0:
            draw(curves, self.folder / PICTURE)
        runner.log("Sensitivities: %s (it replaces sen.pickle), picture: %s.", self.path, PICTURE)

    def fingerprint(self) -> dict[str, str]:
        """What the curves are valid for."""
        a = self.args
        settings = [a.sensitivity, a.criterion, a.seed, a.label_free, len(self.samples)]
        first = self.samples[0]["img"], self.samples[len(self.samples) - 1]["img"]
        data = hashlib.sha256(
            json.dumps(self.config.to_dict().get("val_dataset"), default=str, sort_keys=True).encode()
        )
        for image in first:
            data.update(np.ascontiguousarray(image).tobytes())
        if self.refits:
            settings.append(refit_images_count(a))
            data.update(json.dumps(self.config.to_dict().get("train_dataset"), default=str, sort_keys=True).encode())
        return {
            "weights": weights_fingerprint(self.groups),
            "data": data.hexdigest(),
            "settings": json.dumps(settings),
        }

    @functools.cached_property
    def known(self) -> Curves | None:
        """Curves of this run that is resumed, or of the file given.

        Raises:
            UserError: they are damaged, or of another model.
        """
        given = self.args.sensitivity_file
        if given and is_pickle(given):
            return read_curves(given, self.groups)
        if not given and not (self.args.resume and self.path.is_file()):
            return None
        curves = Curves.read(*self._source)
        curves.check_groups({group.name: group.width for group in self.groups.groups}, *self._source)
        return curves

    @property
    def _source(self) -> tuple[str | Path, str]:
        """The file of the curves, and what to do when it does not suit."""
        given = self.args.sensitivity_file
        return (given, _LEAVE_OUT) if given else (self.path, _MEASURE_AGAIN)

    def _compare(self, curves: Curves, fingerprint: dict[str, str]) -> None:
        """Refuse curves that say they are of something else; those of a ``sen.pickle`` say nothing."""
        if not (self.args.sensitivity_file and is_pickle(self.args.sensitivity_file)):
            curves.check(fingerprint, *self._source)

    def _measure(self, importance: dict[str, np.ndarray], fingerprint: dict[str, str]) -> Curves:
        mode = self.args.sensitivity
        if mode == "none":
            return ranking_curves(self.groups, importance, self.args.criterion, fingerprint)
        if mode == "taylor":
            assert self.gradients is not None
            return taylor_curves(self.groups, self.gradients, importance, fingerprint)
        rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        state = self.folder / (REFIT_STATE if mode == "refit" else STATE).format(rank=rank)
        if not self.args.resume:
            state.unlink(missing_ok=True)
        if mode == "refit":
            return self._refit_curves(importance, fingerprint, state)
        size = min(self.args.batch_size or self.config.batch_size, TOGETHER)
        total = -(-len(range(rank, len(self.samples), world)) // size)

        def read(start: int) -> Iterator[Any]:
            return islice(batches(self.samples, size, self.args.num_workers, rank, world), start, None)

        accumulator = DivergenceCounts if self.args.label_free else self.task.accumulator
        data = Data(read, total, accumulator, self.task.logits, size)
        engine, workers = evaluation.best_executor(self.args.eval_engine), 1
        if engine.name == "onnxruntime":  # points side by side use the cores better than threads in small layers
            batches_that_fit = images_that_fit(self.groups.model, (1, *self.samples[0]["img"].shape)) // size
            workers = max(1, min(self.threads, batches_that_fit))
            engine = evaluation.best_executor(engine.name, threads=self.threads - workers + 1)
        with share_done("[SENSITIVITY]") as progress:
            return analyse(
                self.groups,
                importance,
                data,
                engine,
                mode=mode,
                ratios=EXACT_RATIOS if mode == "exact" else FAST_RATIOS,
                state=state,
                fingerprint=fingerprint,
                progress=progress,
                workers=workers,
                rank=rank,
                world=world,
                total=ranks.total,
            )

    @property
    def readers(self) -> dict[str, list[Reader]]:
        """What reads the groups; looked at once."""
        if self._found is None:
            images = refit_images(self.args, self.task, self.groups.model)
            with share_done("[MOMENTS]") as progress:
                self._found = readers_of(self.groups, images, progress)
        return self._found

    def _refit_curves(self, importance: dict[str, np.ndarray], fingerprint: dict[str, str], state: Path) -> Curves:
        images = of_one_size([self.samples[i]["img"] for i in range(len(self.samples))])
        with share_done("[SENSITIVITY]") as progress:
            curves = refit_curves(
                self.groups,
                importance,
                self.readers,
                images,
                state=state,
                fingerprint=fingerprint,
                progress=progress,
            )
        for curve in curves.groups.values():  # every rank has measured; all go by what the first one has
            curve.losses[:] = ranks.of_the_first(np.array(curve.losses)).tolist()
        return curves

    def _gradients(self) -> dict[str, np.ndarray]:
        samples = self.samples
        if needs_gradients(self.args.criterion):
            samples = evenly_spread(self.task.val_dataset(), self.args.sensitivity_images or CRITERION_IMAGES)
        images = (samples[i]["img"][None] for i in range(len(samples)))
        with Progress(len(samples), "[GRADIENTS]") as progress:
            return gate_gradients(
                self.groups, images, self.task.logits, self.args.seed, lambda done: progress.step(done - progress.done)
            )


def refuse_quantized(model: GraphLayer) -> None:
    """Refuse a model with quantizers.

    Raises:
        UserError: it has some: their ranges are of the unpruned tensors.
    """
    if any(node.op == "slim.fake_quant" for node in model.eval_graph.nodes):
        raise UserError("The model is quantized already.", "Prune first, quantize after.")


def refuse_not_finite(model: GraphLayer) -> None:
    """Refuse a model that holds NaN or infinite numbers.

    Raises:
        UserError: it does; the first tensor is named.
    """
    for name, tensor in model.tensors():
        if paddle.is_floating_point(tensor) and not np.isfinite(tensor.astype("float32").numpy()).all():
            raise UserError(f"{name} has NaN or infinite values.", "Its training diverged: use another model.")

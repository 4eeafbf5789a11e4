"""Quantize a trained model without training it: calibrate, round, export, evaluate the exported file."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from paddleseg_slim.cli import arguments, output, quant_flags, runner, setup
from paddleseg_slim.cli.quant_run import QuantRun

if TYPE_CHECKING:
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.quant.analysis import LayerError
    from paddleseg_slim.quant.calibrate import Calibration

HELP = "quantize a trained model without training it"

FLOAT_SHARE = 0.045
"""Most of the MACs that ``--keep-float auto`` may leave in float, besides what stays so anyway."""

SEARCH_IMAGES = 8
"""Images of the comparison of settings."""

RECONSTRUCTION_IMAGES = 128
"""Images of a reconstruction, if the list has them: deep layers have many weights and see few positions an image."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``ptq.py`` and what this package adds."""
    arguments.add_config(parser)
    parser.add_argument("--model_path", "--model_dir", metavar="PATH", help="weights, or the folder of a saved graph")
    parser.add_argument("--reset-head", "--reset_head", action="store_true", help="keep the head if classes differ")
    parser.add_argument("--from_scratch", action="store_true", help="quantize random weights, to measure a speed")
    arguments.add_output(parser, "./quant_model")
    arguments.add_device(parser)
    parser.add_argument("--batch_size", type=int, default=4, metavar="N", help="images of a batch; default 4")
    parser.add_argument("--num_workers", type=int, default=1, metavar="N", help="threads that load data ahead")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the choice of images")
    quant_flags.add_quantization(parser)
    quant_flags.add_calibration(parser)
    parser.add_argument("--max-drop", "--max_drop", type=float, metavar="X",
                        help="keep layers float until the metric falls by at most X (0.01: a point)")  # fmt: skip
    parser.add_argument("--reconstruct", type=float, metavar="SECONDS",
                        help="choose the rounding of each weight by the output of its block, for so long")  # fmt: skip
    parser.add_argument("--keep-float", "--keep_float", nargs="+", default=[], metavar="LAYER",
                        help="layers that stay float; or auto: the worst within 5 %% of what int8 gains, and those "
                        "that int8 makes slower; or slow: the latter alone")  # fmt: skip
    parser.add_argument("--analyze", nargs="?", const="exact", choices=("exact", "fast"),
                        help="write how much each layer suffers, measured or by gradients")  # fmt: skip
    parser.add_argument("--tables", choices=("abs_max", "log2"), help="store look-up tables (embeddings) in 8 bits")
    parser.add_argument("--search", action="store_true",
                        help="compare twenty ways to choose ranges by the logits, and take the best")  # fmt: skip
    parser.add_argument("--no_bench", action="store_true", help="measure no latency")


def run(args: argparse.Namespace) -> int:
    """Quantize; see `add_arguments`."""
    arguments.at_least(args, batch_size=1, batch_nums=1, num_workers=0, reconstruct=0, max_drop=0)
    session = setup.start(args)
    setup.one_process("Quantization after training")
    from paddleseg_slim import config as configs
    from paddleseg_slim.cli import quant_result
    from paddleseg_slim.tasks import build_task

    settings = quant_flags.settings_of(args, session.device)
    quant_result.need_onnx()
    config = configs.load_config(args.config, args.opts)
    task = build_task(config)
    shape = (1, *task.val_dataset()[0]["img"].shape)
    model = quant_flags.float_model(args, task, shape)
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume_flag="") as folder:
        return _Run(args, config, task, model, settings, folder, shape, session.threads).run()


class _Run(QuantRun):
    """One run of the command."""

    def run(self) -> int:
        """Calibrate, quantize, check, write."""
        from paddleseg_slim.quant.ptq import entry_of
        from paddleseg_slim.quant.tables import quantize_tables, tables_of

        if self.args.tables:
            tables_of(self.model)
        source = self.results.score(self.model, "Float model")
        wish = self.args.keep_float
        named = () if wish in (["auto"], ["slow"]) else tuple(wish)
        calibration = self.calibrate(replace(self.settings, keep_float=named))
        if self.args.search:
            self._search(calibration)
        if wish in (["auto"], ["slow"]):
            calibration = self._without_some(calibration, by_error=wish == ["auto"])
        if self.args.analyze and wish != ["auto"]:  # which has analysed already
            self._analyze(calibration)
        layer = self._made(calibration)
        memory = self.results.score(layer, "Quantized model")
        kept: tuple[str, ...] = ()
        if self.args.max_drop is not None and memory.score < source.score - self.args.max_drop:
            calibration, kept = self._control(calibration, source.score)
            layer = self._made(calibration)
            memory = self.results.score(layer, "Quantized model")
        if self.args.tables:
            names = quantize_tables(layer, self.args.tables)
            runner.log("In 8 bits (%s): %s", self.args.tables, ", ".join(names))
            memory = self.results.score(layer, "With tables in 8 bits")
        layer.record.append(
            entry_of(
                calibration.placement,
                self.settings,
                "ptq",
                images=calibration.images,
                calibration_set=self.args.calibration_set,
                observer=self.settings.choice.observer,
                kept_for_accuracy=list(kept),
            )
        )
        runner.log("%s", calibration.placement.summary())
        remedy = "Give more calibration images, --reconstruct 60, or train: slim/quant.py."
        return self.finish(layer, calibration, source, memory, remedy)

    def _made(self, calibration: Calibration) -> GraphLayer:
        """The quantized model, reconstructed if that is asked for."""
        from paddleseg_slim.quant.reconstruct import reconstruct

        layer = calibration.quantized(self.settings.choice)
        if self.args.reconstruct:
            report = reconstruct(
                layer,
                calibration.layer,
                self.images(max(calibration.images, RECONSTRUCTION_IMAGES)),
                self.args.reconstruct,
                executor=self.executor,
                seed=self.args.seed,
                int32_bias=calibration.placement.profile.bias == "int32",
            )
            runner.log("Reconstruction: %s", report.line())
        return layer

    def _search(self, calibration: Calibration) -> None:
        """Take the best of twenty settings; ``settings.json`` tells all."""
        from paddleseg_slim.files import write_json
        from paddleseg_slim.quant.compare import compare, twenty

        rows = compare(calibration, twenty(), self.images(SEARCH_IMAGES)[0], self.task.logits)
        write_json(self.folder / "settings.json", [asdict(row) for row in rows])
        best = rows[0]
        runner.log("Of %d settings the best is %s (error %.4f).", len(rows), best.choice, best.error)
        self.settings = replace(self.settings, choice=best.choice)

    def _without_some(self, calibration: Calibration, by_error: bool) -> Calibration:
        """Leave in float what costs time in int8, and with ``by_error`` what hurts most and gains little."""
        from paddleseg_slim.cli.quant_times import gains_of, slower
        from paddleseg_slim.quant.calibrate import with_layers
        from paddleseg_slim.quant.mixed import choose_float

        layer = calibration.quantized(self.settings.choice)
        gains = {gain.layer: gain for gain in gains_of(self, layer, calibration)}
        out = [gain.layer for gain in slower(list(gains.values()))]
        runner.log("%d layers stay float as int8 makes them slower: %s", len(out), ", ".join(out) or "none")
        if by_error:
            rows = [row for row in self._analyze(calibration) if row.layer not in out]
            timed = [row for row in rows if row.layer in gains] or rows
            saved = [max(gains[row.layer].gain_ms, 1e-6) for row in timed] if gains else None
            worst = choose_float(timed, FLOAT_SHARE, saved)
            runner.log("%d layers stay float for their error: %s", len(worst), ", ".join(worst) or "none")
            out += worst
        return with_layers(calibration, [name for name in calibration.placement.layers if name not in out])

    def _control(self, calibration: Calibration, source: float) -> tuple[Calibration, tuple[str, ...]]:
        """Keep the most sensitive layers float until the accuracy is reached."""
        from paddleseg_slim.quant.ptq import within_drop

        order = [row.layer for row in self._analyze(calibration)]
        found = within_drop(
            calibration,
            self.settings.choice,
            order,
            lambda layer: self.results.score(layer, "Fewer layers").score,
            source - self.args.max_drop,
        )
        runner.log("%d layers stay float for the accuracy: %s", len(found.kept), ", ".join(found.kept) or "none")
        return found.calibration, found.kept

    def _analyze(self, calibration: Calibration) -> list[LayerError]:
        """The layers, worst first; ``sensitivity.json`` and ``.png`` tell them too."""
        from paddleseg_slim.files import write_json
        from paddleseg_slim.quant.analysis import draw, estimate_errors, layer_errors

        images, choice = self.images(8)[0], self.settings.choice
        estimates = estimate_errors(calibration, choice, images, self.task.logits)
        rows = estimates
        if self.args.analyze != "fast":
            rows = layer_errors(calibration, choice, images, self.executor, self.task.logits)
        known = {row.layer: row.error for row in estimates}
        write_json(self.folder / "sensitivity.json", [{**asdict(row), "estimate": known[row.layer]} for row in rows])
        draw(rows, self.folder / "sensitivity.png", estimates)
        for row in rows[:5]:
            runner.log("  sensitive: %s (error %.2e of the logits' variance)", row.layer, row.error)
        return rows

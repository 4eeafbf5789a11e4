"""Quantize a trained model and train it on, so that it gets used to its integers."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, output, quant_flags, runner, setup, training
from paddleseg_slim.cli.quant_run import QuantRun

if TYPE_CHECKING:
    from paddleseg_slim.config import Config

HELP = "quantize a trained model and train it on"

SAFE_RATE = 0.1
"""The default learning rate is this share of the config's: a trained model needs small steps."""


CLIP_NORM = 5.0
"""Largest norm of all gradients together, where the config does not say: normalisations are folded and tame nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tutorial's flags, those of ``qat_train.py``, and what this package adds."""
    arguments.add_config(parser)
    parser.add_argument("--retraining_iters", "--iters", type=int, required=True, metavar="N", help="training steps")
    training.add_schedule(parser, iters=False)
    arguments.add_weights(parser)
    arguments.add_output(parser, "./output")
    arguments.add_device(parser)
    parser.add_argument("--from_scratch", action="store_true", help="quantize random weights, to try a command out")
    parser.add_argument("--resume_model", metavar="DIR", help="go on from iter_N, or the latest one of a run's folder")
    quant_flags.add_quantization(parser)
    quant_flags.add_calibration(parser)
    group = parser.add_argument_group("training")
    group.add_argument("--weight_quantizer", metavar="NAME", help="default: --weight_quantize_type; or LSQ, DSQ")
    names = "moving_average_abs_max (default), range_abs_max, abs_max, PACT, LSQ, LSQ+, DSQ"
    default = "moving_average_abs_max"
    group.add_argument("--activation_quantize_type", "--activation_quantizer", default=default, metavar="N", help=names)
    group.add_argument("--moving_rate", type=float, default=0.9, metavar="R", help="of moving averages; default 0.9")
    group.add_argument("--batch_norm", choices=("fold", "batch"), default="fold",
                       help="fold them and train without (default), or go on by batch statistics")  # fmt: skip
    group.add_argument("--no_distill", action="store_true", help="without distillation from the float model")
    group.add_argument("--distill_weight", type=float, default=1.0, metavar="W", help="of the distillation loss")
    parser.add_argument("--max-drop", "--max_drop", type=float, metavar="X", help="exit 3 if the metric falls by more")
    parser.add_argument("--no_bench", action="store_true", help="measure no latency")


def run(args: argparse.Namespace) -> int:
    """Quantize and train; see `add_arguments`."""
    arguments.at_least(args, retraining_iters=1, batch_nums=1)
    training.check_schedule(args)
    arguments.above_zero(args, "distill_weight")
    session = setup.start(args)
    setup.one_process("Quantization-aware training")
    from paddleseg_slim import config as configs
    from paddleseg_slim.cli import quant_result
    from paddleseg_slim.quant.quantizers import get_quantizer
    from paddleseg_slim.tasks import build_task

    settings = quant_flags.settings_of(args, session.device)
    get_quantizer(args.weight_quantizer or args.weight_quantize_type, "weights")
    get_quantizer(args.activation_quantize_type, "activations")
    quant_result.need_onnx()
    overrides: dict[str, Any] = {"iters": args.retraining_iters, "batch_size": args.batch_size}
    if args.learning_rate is None:
        rate = configs.load_config(args.config, args.opts).lr_scheduler.args.get("learning_rate")
        args.learning_rate = SAFE_RATE * rate if isinstance(rate, (int, float)) else None
        if args.learning_rate is not None:
            said = "Learning rate %g, %g of the config's; --learning_rate sets another."
            runner.log(said, args.learning_rate, SAFE_RATE)
    config = configs.load_config(args.config, args.opts, overrides={**overrides, "learning_rate": args.learning_rate})
    config = _with_clipping(config)
    task = build_task(config)
    task.train_dataset()
    shape = (1, *task.val_dataset()[0]["img"].shape)
    model = quant_flags.float_model(args, task, shape)
    folder_of_run = f"{args.save_dir}/retraining"
    train_settings = training.settings_of(
        args,
        config,
        session.threads,
        save_dir=folder_of_run,
        iters=args.retraining_iters,
        save_interval=min(args.save_interval, args.retraining_iters),
        do_eval=True,
    )
    training.check(train_settings, config, model, task)
    resume = training.find_resume(args.resume_model, config, train_settings, len(task.train_dataset()))
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume=resume is not None) as folder:
        return _Run(args, config, task, model, settings, folder, shape, session.threads).run(train_settings, resume)


def _with_clipping(config: Config) -> Config:
    """The config with clipped gradients, unless it says how to clip."""
    optimizer = config.optimizer
    if optimizer.args.get("grad_clip_cfg"):
        return config
    clip = {"name": "ClipGradByGlobalNorm", "clip_norm": CLIP_NORM}
    return replace(config, optimizer=replace(optimizer, args={**optimizer.args, "grad_clip_cfg": clip}))


class _Run(QuantRun):
    """One run of the command."""

    def run(self, train_settings: Any, resume: Any) -> int:
        """Quantize, train, write."""
        import shutil

        from paddleseg_slim.cli.quant_hooks import Ranges
        from paddleseg_slim.distill.self_distillation import SelfDistillation
        from paddleseg_slim.quant.insert import round_biases
        from paddleseg_slim.quant.norms import Norms
        from paddleseg_slim.quant.ptq import entry_of
        from paddleseg_slim.quant.qat import Training
        from paddleseg_slim.train.weights import load_weights

        runner.log("Step 1/2: Start to quantify the model...")
        calibration = self.calibrate(self.settings)
        source = self.results.score(self.model, "Float model")
        layer = calibration.quantized(replace(self.settings.choice, search_weights=False, bias_correction=False))
        weights = self.args.weight_quantizer or self.args.weight_quantize_type
        norms = None
        if self.args.batch_norm == "batch":
            norms = Norms(layer, self.model, calibration.placement)
            runner.log("%d normalisations go on by batch statistics, until they are frozen.", len(norms.kept))
        form = Training(layer, weights, self.args.activation_quantize_type, self.args.moving_rate, norms)
        form.begin()
        hooks: list[Any] = [Ranges(form, self.args.retraining_iters)]
        if not self.args.no_distill:
            hooks.append(SelfDistillation(calibration.layer, self.task.logits, self.args.distill_weight))
        if resume is None:
            shutil.rmtree(train_settings.save_dir, ignore_errors=True)
        runner.log("Step 2/2: Start retraining the model.")
        training.fit(
            layer,
            self.task,
            self.config,
            train_settings,
            hooks=hooks,
            resume=resume,
            use_vdl=self.args.use_vdl,
            engine=self.args.eval_engine,
        )
        load_weights(layer, train_settings.save_dir / "best_model" / "model.pdparams")
        form.end()
        if calibration.placement.profile.bias == "int32":
            round_biases(layer)
        memory = self.results.score(layer, "Quantized model")
        entry = entry_of(
            calibration.placement,
            self.settings,
            "qat",
            iters=self.args.retraining_iters,
            batch_norm=self.args.batch_norm,
            weight_quantizer=weights,
            activation_quantizer=self.args.activation_quantize_type,
        )
        layer.record.append(entry)
        return self.finish(layer, calibration, source, memory, "Train longer, or with another --learning_rate.")

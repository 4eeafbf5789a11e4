"""Paddle Inference: CPU through oneDNN, GPU, and TensorRT through Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.deploy.runtimes.base import Runtime, RuntimeInfo, RuntimeOptions, check_feeds
from paddleseg_slim.deploy.runtimes.machine import cpu_flags, cpu_name
from paddleseg_slim.deploy.runtimes.paddle_program import read_interface
from paddleseg_slim.errors import UserError

_WRONG_PASSES = ("onednn_placement_pass", "elementwise_act_onednn_fuse_pass")
"""Of oneDNN over PIR programs."""

_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


def params_file(path: Path) -> Path:
    """The parameters that belong to a program file."""
    if path.name == "__model__":
        params = path.with_name("__params__")
        return params if params.exists() else path.with_name("params")
    return path.with_suffix(".pdiparams")


class PaddleRuntime(Runtime):
    """A model in Paddle Inference (``model.json`` or ``model.pdmodel``, and its ``.pdiparams``).

    Paddle's handler of SIGTERM is taken off (`compat.restore_sigterm`).
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        import paddle
        import paddle.inference

        from paddleseg_slim.compat import restore_num_threads, restore_sigterm

        params = params_file(path)
        if not params.exists():
            raise UserError(f"{path} has no parameters: {params.name} is missing.", "Export the model again.")
        restore_sigterm()
        self.options = options
        self._paddle, self._restore_num_threads = paddle, restore_num_threads
        self._is_pir = path.suffix == ".json"
        self.inputs, self.outputs = read_interface(path)
        config = paddle.inference.Config(str(path), str(params))
        config.disable_glog_info()
        config.switch_use_feed_fetch_ops(False)
        if options.device == "gpu":
            self._use_gpu(config)
        else:
            self._use_cpu(config)
        if options.collect_shapes:
            config.collect_shape_range_info(options.collect_shapes)
        try:
            self._predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError, SystemError) as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise UserError(f"Paddle Inference cannot load {path}: {reason}", "Export the model again.") from error
        self._handles = {name: self._predictor.get_input_handle(name) for name in self._predictor.get_input_names()}
        self._results = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]

    def _use_cpu(self, config: Any) -> None:
        """oneDNN on, without two of its passes over PIR programs (Paddle 3.3).

        The placement pass makes Paddle abort on interpolation; programs run on oneDNN kernels without it. Old programs
        need it for that (measured: four times slower without). The fusion of sums with their activation gives wrong
        numbers where HRNet adds its branches at a fixed size (by a third of the range of the logits), and no time.
        """
        if self.options.precision not in ("fp32", "bf16"):
            raise UserError(
                f"Paddle Inference has no {self.options.precision} on the CPU.", "Use --precision fp32, or a GPU."
            )
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(self.options.thread_count)
        if self._is_pir:
            for name in _WRONG_PASSES:
                config.delete_pass(name)
        if self.options.precision == "bf16":
            config.enable_mkldnn_bfloat16()

    def _use_gpu(self, config: Any) -> None:
        paddle = self._paddle
        if not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
            raise UserError("This Paddle finds no GPU.", "Install paddlepaddle-gpu, or use --device cpu.")
        kinds = paddle.inference.PrecisionType
        precision = {"fp32": kinds.Float32, "fp16": kinds.Half, "bf16": kinds.Bfloat16, "int8": kinds.Int8}
        config.enable_use_gpu(100, 0, precision[self.options.precision])
        if not self.options.use_trt:
            return
        config.enable_tensorrt_engine(
            workspace_size=1 << 30,
            max_batch_size=1,
            min_subgraph_size=self.options.min_subgraph_size,
            precision_mode=precision[self.options.precision],
            use_static=self.options.cache_dir is not None,
            use_calib_mode=False,
        )
        if self.options.cache_dir:
            config.set_optim_cache_dir(self.options.cache_dir)
        if self.options.trt_shapes:
            config.enable_tuned_tensorrt_dynamic_shape(self.options.trt_shapes, True)
        elif self.options.input_shapes:
            least, best, most = (
                {name: list(sizes[place]) for name, sizes in self.options.input_shapes.items()} for place in range(3)
            )
            config.set_trt_dynamic_shape_info(least, most, best)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Runtime.run`."""
        for name, array in check_feeds(self.inputs, feeds).items():
            self._handles[name].copy_from_cpu(array)
        self._predictor.run()
        self._restore_num_threads()
        return [handle.copy_to_cpu() for handle in self._results]

    def describe(self) -> RuntimeInfo:
        """Tell version, device and precision; Paddle Inference does not tell the precision of single nodes."""
        precision, notes = self.options.precision, []
        if precision == "bf16" and not set(_BF16_FLAGS) & set(cpu_flags()):
            precision = "fp32"
            notes.append("bf16 was asked for; this processor lacks it and Paddle computes in fp32.")
        gpu = self.options.device == "gpu"
        return RuntimeInfo(
            engine="paddle",
            version=self._paddle.__version__,
            device=f"gpu: {self._paddle.device.cuda.get_device_name()}" if gpu else f"cpu: {cpu_name()}",
            threads=None if gpu else self.options.thread_count,
            precision=precision,
            notes=tuple(notes),
        )

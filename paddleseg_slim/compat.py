"""The one place that touches private parts of Paddle, and the check that the installed Paddle is one we support."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from paddleseg_slim.errors import UserError

SUPPORTED = ((3, 1, 1), (3, 4, 0))
"""Lowest supported version of Paddle, and the first that is too new."""

_REMEDY = "Install a supported one: pip install 'paddlepaddle>=3.1.1,<3.4' (paddlepaddle-gpu for a GPU)."

try:
    import paddle
except ImportError as error:
    raise UserError("Paddle is not installed.", _REMEDY) from error


def check_version(version: str) -> None:
    """Refuse a version of Paddle that the package was not tested on.

    Raises:
        UserError: ``version`` is outside `SUPPORTED`. A development build (``0.0.0``) is let through.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    low, high = SUPPORTED
    if numbers != (0, 0, 0) and not low <= numbers < high:
        raise UserError(f"Paddle {version} is not supported.", _REMEDY)


check_version(paddle.__version__)

from paddle.base import core, framework  # noqa: E402
from paddle.base.dygraph.base import to_static_mode_guard  # noqa: E402
from paddle.pir.core import _convert_into_value, create_parameter, static_op_arg_cast_guard  # noqa: E402

try:
    from paddle.jit.dy2static import parameter_recorder as _recorder
except ImportError:  # before 3.2
    from paddle.jit.pir_dy2static import parameter_recorder as _recorder  # type: ignore[no-redef]

_MIXED_LISTS_FAIL = paddle.__version__.startswith("3.1.")

PirValue = paddle.pir.Value
Parameter = framework.EagerParamBase
_RAW_SHAPE = PirValue.shape


_threads = 0


def set_num_threads(threads: int) -> None:
    """Set the number of CPU threads of Paddle's kernels."""
    global _threads
    _threads = threads
    core.set_num_threads(threads)


def restore_num_threads() -> None:
    """Set the number that `set_num_threads` set last: a run of Paddle Inference leaves one thread behind."""
    if _threads:
        core.set_num_threads(_threads)


def restore_sigterm() -> None:
    """Let SIGTERM do what Python has it do, which Paddle overrides when it is imported; in the main thread alone.

    Paddle's handler asks for locks that the code just interrupted may hold, and the process hangs instead of ending
    (seen in runs of Paddle Inference).
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def pir_shape(value: Any) -> tuple[int, ...]:
    """Shape of a PIR value as Paddle inferred it, -1 for a dynamic axis, whatever patch is active."""
    return tuple(int(size) for size in _RAW_SHAPE.fget(value))


def dtype_name(dtype: Any) -> str:
    """``paddle.float32`` (or its PIR ``DataType``) -> ``"float32"``."""
    return str(getattr(dtype, "name", dtype)).rsplit(".", 1)[-1].lower()


def dtype_object(name: str) -> Any:
    """``"float32"`` -> the object that Paddle's ops take."""
    return getattr(core.DataType, name.upper())


def is_dtype(item: Any) -> bool:
    """Whether an attribute of an op is a data type."""
    return isinstance(item, core.DataType)


def is_place(item: Any) -> bool:
    """Whether an attribute of an op is a device."""
    return isinstance(item, (core.Place, core.CPUPlace))


def current_place() -> Any:
    """The device that ops run on at present."""
    return framework._current_expected_place()


def placeholder(name: str, shape: Sequence[int], dtype: str) -> Any:
    """An input of the program being built; `paddle.static.data` takes a time that grows with the program."""
    return paddle._C_ops.data(name, list(shape), dtype_object(dtype), core.Place())


def program_parameter(name: str, tensor: Any) -> Any:
    """A parameter of the program being built, of the type and shape of ``tensor``."""
    return create_parameter(
        dtype=dtype_object(dtype_name(tensor.dtype)),
        shape=list(tensor.shape),
        name=name,
        initializer=paddle.nn.initializer.Constant(0.0),
        trainable=not tensor.stop_gradient,
    )


def read_program(model: Path, params: Path | None) -> tuple[Any, dict[str, np.ndarray]]:
    """Read Paddle Inference files: ``.json``, ``.pdmodel`` or ``__model__``.

    Args:
        model: the program.
        params: the file with all parameters; None when each has a file of its own beside ``model``.

    Returns:
        the PIR program, and the arrays of its parameters by name.
    """
    scope = paddle.static.Scope()
    with contextlib.ExitStack() as stack:
        stack.enter_context(framework._dygraph_guard(None))
        stack.enter_context(paddle.static.scope_guard(scope))
        executor = paddle.static.Executor(paddle.CPUPlace())
        if model.suffix == ".json":
            program = paddle.static.load_inference_model(str(model.with_suffix("")), executor)[0]
        else:
            stack.enter_context(paddle.pir_utils.OldIrGuard())
            names = {"model_filename": model.name, "params_filename": params.name if params else None}
            old = paddle.static.load_inference_model(str(model.parent), executor, **names)[0]
            program = core.pir.translate_to_pir(old.desc)
    names_in_program = [
        operation.attrs()["parameter_name"]
        for operation in program.global_block().ops
        if operation.name() == "builtin.parameter"
    ]
    arrays = {name: np.array(scope.find_var(name).get_tensor()) for name in names_in_program}
    return program, arrays


def op_function(name: str) -> Callable[..., Any] | None:
    """The function of an op, in eager mode and under a program guard alike; None when Paddle has none."""
    return getattr(paddle._C_ops, name, None)


def op_header() -> str:
    """Text of the C++ header that declares every op with its arguments in order; empty when the wheel has none."""
    path = Path(paddle.__file__).parent / "include/paddle/phi/api/include/api.h"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@contextlib.contextmanager
def building(program: Any) -> Iterator[None]:
    """Build ops into ``program`` instead of running them, without the costly Python stack of every op."""
    no_stack = patch.object(traceback, "extract_stack", lambda *_, **__: traceback.StackSummary())
    with framework._dygraph_guard(None), paddle.static.program_guard(program, paddle.static.Program()), no_stack:
        yield


@functools.cache
def _ops_with_integers() -> tuple[str, ...]:
    """Ops that take integers which may be computed."""
    names = re.findall(r"^PADDLE_API .*?(\w+)\([^;]*\bIntArray\b", op_header(), flags=re.M)
    return tuple(name for name in names if op_function(name) is not None)


def _only_values(argument: Any) -> Any:
    """A list of integers and PIR values as one of values; anything else as it is."""
    if not isinstance(argument, (list, tuple)):
        return argument
    first = next((item for item in argument if isinstance(item, PirValue)), None)
    if first is None:
        return argument
    shape, dtype = pir_shape(first), dtype_name(first.dtype)
    values = (item if isinstance(item, PirValue) else paddle.full(shape, item, dtype) for item in argument)
    return [value if dtype_name(value.dtype) == dtype else value.astype(dtype) for value in values]


@contextlib.contextmanager
def _mixed_lists() -> Iterator[None]:
    """Let ops take lists of integers and PIR values, as they do from Paddle 3.2 on: `F.pad` of a computed size."""
    with contextlib.ExitStack() as stack:
        for name in _ops_with_integers() if _MIXED_LISTS_FAIL else ():
            function = getattr(paddle._C_ops, name)

            def call(*arguments: Any, _function: Callable[..., Any] = function, **keywords: Any) -> Any:
                return _function(*map(_only_values, arguments), **keywords)

            stack.enter_context(patch.object(paddle._C_ops, name, call))
        yield


@contextlib.contextmanager
def tracing(program: Any, **value_methods: Any) -> Iterator[dict[int, Any]]:
    """Trace eager code into ``program``; yields ``{id of PIR value: tensor}``, filled when the block ends well.

    ``value_methods`` replace methods of PIR values meanwhile (``shape``, ``__bool__`` ...). The name scope of every
    layer call is switched off: it lists all ops each time.
    """
    layers = types.ModuleType.__getattribute__(paddle.nn.layer, "layers")
    parameters: dict[int, Any] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(_recorder._global_inplace_map.pop, program)
        stack.enter_context(building(program))
        stack.enter_context(_mixed_lists())
        stack.enter_context(to_static_mode_guard(True))
        stack.enter_context(static_op_arg_cast_guard(_convert_into_value))
        stack.enter_context(patch.object(layers, "name_struct", lambda *_: contextlib.nullcontext(), create=True))
        for name, method in value_methods.items():
            stack.enter_context(patch.object(PirValue, name, method, create=True))
        tensors: list[Any] = []
        try:
            yield parameters
        finally:  # the recorder is keyed by the address of the program: left behind, it crashes a later trace
            tensors, values = _recorder._global_parameter_recorder.pop(program)
        parameters.update((value.id, tensor) for value, tensor in zip(values, tensors))


def last_operation(program: Any) -> Any:
    """The operation that was built last: in the branch that is being built, before it, or None."""
    for block in (core.pir.get_current_insertion_point().block(), program.global_block()):
        if not block.empty():
            return block.back()
    return None


def converted(layer: Any) -> Callable[..., Any]:
    """``layer`` with its Python ``if`` and ``while`` turned into calls that can become operations (`to_static`)."""
    from paddle.jit.dy2static.convert_call_func import convert_call

    return convert_call(layer)


@contextlib.contextmanager
def converted_decisions(branch: Callable[..., Any]) -> Iterator[None]:
    """Meanwhile every ``if`` of converted code calls ``branch(Paddle's own function, condition, ...)``."""
    from paddle.jit import dy2static

    with patch.object(dy2static, "IfElse", functools.partial(branch, dy2static.IfElse)):
        yield

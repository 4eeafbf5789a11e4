"""Names, dtypes and shapes of the inputs and outputs of a Paddle program file; the predictor itself does not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paddleseg_slim.deploy.runtimes.base import TensorSpec
from paddleseg_slim.errors import UserError

_PIR_DTYPES = {
    "t_f32": "float32",
    "t_f16": "float16",
    "t_f64": "float64",
    "t_i8": "int8",
    "t_i32": "int32",
    "t_i64": "int64",
    "t_ui8": "uint8",
    "t_bool": "bool",
}


def read_interface(path: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return the inputs and outputs of a ``.json`` (PIR) or ``.pdmodel`` / ``__model__`` program.

    Raises:
        UserError: the file is not such a program.
    """
    read = _read_pir if path.suffix == ".json" else _read_old
    try:
        inputs, outputs = read(path)
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a Paddle program.", "Export the model again.") from error
    if not inputs or not outputs:
        raise UserError(f"{path} has no inputs or no outputs.", "Export the model for inference.")
    return inputs, outputs


def _read_pir(path: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    program = json.loads(path.read_text(encoding="utf-8"))
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for op in program["program"]["regions"][0]["blocks"][0]["ops"]:
        if op["#"] in ("1.data", "1.fetch"):
            attributes = {item["N"]: item["AT"].get("D") for item in op["A"]}
            kind, shape = op["O"][0]["TT"]["D"][:2]
            spec = TensorSpec(attributes["name"], _PIR_DTYPES[kind["#"].split(".")[-1]], tuple(shape))
            (inputs if op["#"] == "1.data" else outputs).append(spec)
    return inputs, outputs


def _read_old(path: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    import paddle

    with paddle.pir_utils.OldIrGuard():
        block = paddle.static.Program.parse_from_string(path.read_bytes()).global_block()
        feeds = [name for op in block.ops if op.type == "feed" for name in op.output_arg_names]
        fetches = [name for op in block.ops if op.type == "fetch" for name in op.input_arg_names]
        return [_old_spec(block.var(name)) for name in feeds], [_old_spec(block.var(name)) for name in fetches]


def _old_spec(variable: Any) -> TensorSpec:
    dtype = str(variable.dtype).rsplit(".", 1)[-1].lower()
    return TensorSpec(variable.name, {"fp32": "float32", "fp16": "float16"}.get(dtype, dtype), tuple(variable.shape))

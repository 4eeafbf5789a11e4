"""The op table of Paddle's old program format (``.pdmodel``): the old name of an op and of its arguments.

Only what differs stands here. The rest follows from the op's own declaration in the installed Paddle: an argument
``filter`` is the input ``Filter``, an attribute keeps its name, and an op without a row has the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paddleseg_slim.graph.ir import Node, slot_values


@dataclass(frozen=True)
class OldOp:
    """How one op is written.

    Attributes:
        type: name of the old op.
        names: argument, attribute or output -> its old name; "" for one that the old op does not have.
        computed: argument of sizes -> the inputs that take it when it is not a constant: one tensor, a list of them.
        tensors: argument that is a number or a tensor -> the input of the old op, which takes tensors only.
        attrs: further attributes, from the node.
        cast: the type that the old op gives where it is another: the result is cast to that of the value.
    """

    type: str
    names: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    attrs: Callable[[Node], Mapping[str, Any]] = lambda node: {}
    tensors: Mapping[str, str] = field(default_factory=dict)
    cast: str | None = None


def _same(*ops: str, **names: str) -> dict[str, OldOp]:
    return {op: OldOp(op, names) for op in ops}


def _elementwise(**types: str) -> dict[str, OldOp]:
    return {op: OldOp(f"elementwise_{name}") for op, name in types.items()}


def _reduce_attrs(node: Node) -> Mapping[str, Any]:
    axes = list(node.attrs.get("axis") or [])
    return {"reduce_all": not axes, "dim": axes}


def _reductions(*ops: str) -> dict[str, OldOp]:
    names = {"axis": "", "keepdim": "keep_dim", "dtype": ""}
    return {op: OldOp(f"reduce_{op}", names, attrs=_reduce_attrs) for op in ops}


def _resizes(*kinds: str) -> dict[str, OldOp]:
    names = {"scale_tensor": "Scale", "size_tensor": "SizeTensor", "out_size": "OutSize", "output": "Out"}
    names["data_format"] = "data_layout"
    return {f"{kind}_interp": OldOp(f"{kind}_interp_v2", names) for kind in kinds}


def _fill_attrs(node: Node) -> Mapping[str, Any]:
    value = node.attrs.get("value", 0)
    return {"value": float(value), "str_value": repr(value) if not isinstance(value, bool) else str(int(value))}


def _slice_attrs(node: Node) -> Mapping[str, Any]:
    """A bound that is computed stands as -1 among the attributes, with its flag down."""
    open_axes = {"starts", "ends"} & {name for name in node.inputs if slot_values(node.inputs[name])}
    count = len(node.attrs["axes"])
    return {**{name: [-1] * count for name in open_axes}, "infer_flags": [-1 if open_axes else 1] * count}


def _strided_attrs(node: Node) -> Mapping[str, Any]:
    return {"infer_flags": [1] * len(node.attrs["axes"]), "decrease_axis": []}


def _pad_attrs(node: Node) -> Mapping[str, Any]:
    return {"paddings": node.attrs.get("paddings", [])}


def _value_attrs(node: Node) -> Mapping[str, Any]:
    return {"dtype": node.out.dtype, "shape": []}


_BOUNDS = {name: ("", f"{name.capitalize()}TensorList") for name in ("starts", "ends", "steps")}
_NORM = {"out": "Y", "y": "Y", "data_format": "data_layout"}
_SHAPE = {"shape": ("Shape", "ShapeTensor")}
_FILL_SHAPE = {"shape": ("ShapeTensor", "ShapeTensorList")}

OLD_OPS: dict[str, OldOp] = {
    **_elementwise(add="add", subtract="sub", multiply="mul", divide="div", maximum="max", minimum="min", fmax="fmax"),
    **_elementwise(floor_divide="floordiv", remainder="mod", heaviside="heaviside", fmin="fmin", elementwise_pow="pow"),
    **_reductions("max", "min", "mean", "sum", "prod", "any", "all", "amax", "amin"),
    **_resizes("bilinear", "nearest", "bicubic", "linear", "trilinear"),
    **_same("conv2d", "depthwise_conv2d", "conv3d", input="Input", out="Output"),
    **_same("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose", x="Input", out="Output"),
    **_same("instance_norm", **_NORM, saved_mean="SavedMean", saved_variance="SavedVariance"),
    **_same("layer_norm", "group_norm", **_NORM),
    **_same("mean_all", "stack", out="Y"),
    "add_n": OldOp("sum", {"inputs": "X"}),
    "affine_grid": OldOp("affine_grid", {"input": "Theta"}, {"output_shape": ("OutputShape", "")}),
    "argmax": OldOp("arg_max"),
    "argmin": OldOp("arg_min"),
    "arange": OldOp("range", {"dtype": ""}, tensors={"start": "Start", "end": "End", "step": "Step"}),
    "assign_value": OldOp("assign_value", {"output": ""}),
    "batch_norm": OldOp(
        "batch_norm",
        {
            **_NORM,
            "mean_out": "MeanOut",
            "variance_out": "VarianceOut",
            "saved_mean": "SavedMean",
            "saved_variance": "SavedVariance",
            "reserve_space": "ReserveSpace",
        },
    ),
    "cast": OldOp("cast", {"dtype": "out_dtype"}, attrs=lambda node: {"in_dtype": node.value("x").dtype}),
    "clip": OldOp("clip", computed={"min": ("Min", ""), "max": ("Max", "")}),
    "concat": OldOp("concat", computed={"axis": ("AxisTensor", "")}),
    "crop": OldOp("crop_tensor", computed={**_SHAPE, "offsets": ("Offsets", "OffsetsTensor")}),
    "det": OldOp("determinant", {"x": "Input"}),
    "diag": OldOp("diag_v2"),
    "dropout": OldOp("dropout", {"p": "dropout_prob", "mode": "dropout_implementation", "seed_tensor": "Seed"}),
    "einsum": OldOp("einsum", {"x": "Operands", "inner_cache": "InnerCache", "xshape": "XShape"}),
    "embedding": OldOp("lookup_table_v2", {"x": "Ids", "weight": "W", "sparse": "is_sparse"}),
    "expand": OldOp("expand_v2", computed={"shape": ("Shape", "expand_shapes_tensor")}),
    "expand_as": OldOp("expand_as_v2"),
    "flatten": OldOp("flatten_contiguous_range"),
    "full": OldOp(
        "fill_constant",
        computed={**_FILL_SHAPE, "value": ("ValueTensor", "")},
        attrs=_fill_attrs,
        names={"value": ""},
    ),
    "full_int_array": OldOp(
        "assign_value",
        {"value": "values"},
        attrs=lambda node: {"shape": [len(node.attrs["value"])], "dtype": node.out.dtype},
    ),
    "full_with_tensor": OldOp("fill_constant", computed={**_FILL_SHAPE, "value": ("ValueTensor", "")}),
    "full_like": OldOp("fill_any_like"),
    "gather": OldOp("gather", computed={"axis": ("Axis", "")}),
    "gaussian": OldOp("gaussian_random", computed=_FILL_SHAPE),
    "grid_sample": OldOp("grid_sampler", {"out": "Output"}),
    "hardsigmoid": OldOp("hard_sigmoid"),
    "hardswish": OldOp("hard_swish"),
    "hardshrink": OldOp("hard_shrink"),
    "hardtanh": OldOp("brelu"),
    "index_select": OldOp("index_select", {"axis": "dim"}),
    "isfinite": OldOp("isfinite_v2"),
    "isinf": OldOp("isinf_v2"),
    "isnan": OldOp("isnan_v2"),
    "leaky_relu": OldOp("leaky_relu", {"negative_slope": "alpha"}),
    "matmul": OldOp("matmul_v2", {"transpose_x": "trans_x", "transpose_y": "trans_y"}),
    "max_pool2d_with_index": OldOp("max_pool2d_with_index", {"kernel_size": "ksize"}),
    "mean_all": OldOp("mean"),
    "meshgrid": OldOp("meshgrid", {"inputs": "X"}),
    "mish": OldOp("mish", {"lambda": "threshold"}),
    "multiclass_nms3": OldOp("multiclass_nms3", {"bboxes": "BBoxes", "nms_rois_num": "NmsRoisNum"}),
    "nonzero": OldOp("where_index"),
    "norm": OldOp("norm"),
    "numel": OldOp("size", {"x": "Input"}),
    "one_hot": OldOp(
        "one_hot_v2", {"num_classes": "depth"}, {"num_classes": ("depth_tensor", "")}, lambda node: {"dtype": "float32"}
    ),
    "p_norm": OldOp("p_norm"),
    "pad": OldOp("pad"),
    "pad3d": OldOp("pad3d", {"pad_value": "value"}, {"paddings": ("Paddings", "")}, _pad_attrs),
    "pool2d": OldOp("pool2d", {"kernel_size": "ksize"}),
    "pow": OldOp("pow", {"y": "factor"}, {"y": ("FactorTensor", "")}),
    "reshape": OldOp("reshape2", computed=_SHAPE),
    "roll": OldOp("roll", computed={"shifts": ("ShiftsTensor", "")}),
    "scale": OldOp("scale", computed={"scale": ("ScaleTensor", ""), "bias": ("BiasTensor", "")}),
    "set_value": OldOp("set_value", {"x": "Input"}, _BOUNDS, lambda node: {"dtype": node.out.dtype}),
    "set_value_with_tensor": OldOp("set_value", {"x": "Input", "values": "ValueTensor"}, _BOUNDS, _value_attrs),
    "shape": OldOp("shape"),
    "shape64": OldOp("shape", cast="int32"),
    "slice": OldOp(
        "slice",
        {"infer_flags": ""},
        {"starts": ("StartsTensor", "StartsTensorList"), "ends": ("EndsTensor", "EndsTensorList")},
        _slice_attrs,
    ),
    "split": OldOp("split", computed={"sections": ("", "SectionsTensorList"), "axis": ("AxisTensor", "")}),
    "split_with_num": OldOp("split", computed={"axis": ("AxisTensor", "")}),
    "squeeze": OldOp("squeeze2", {"axis": "axes"}),
    "strided_slice": OldOp("strided_slice", {"x": "Input"}, attrs=_strided_attrs),
    "swish": OldOp("swish"),
    "take_along_axis": OldOp("take_along_axis", {"arr": "Input", "indices": "Index", "axis": "Axis", "out": "Result"}),
    "tile": OldOp("tile", computed={"repeat_times": ("RepeatTimes", "repeat_times_tensor")}),
    "topk": OldOp("top_k_v2", computed={"k": ("K", "")}),
    "transpose": OldOp("transpose2", {"perm": "axis"}),
    "tril": OldOp("tril_triu", attrs=lambda node: {"lower": True}),
    "triu": OldOp("tril_triu", attrs=lambda node: {"lower": False}),
    "unfold": OldOp("unfold", {"out": "Y"}),
    "unbind": OldOp("unbind", {"input": "X"}),
    "uniform": OldOp("uniform_random", computed=_FILL_SHAPE),
    "unpool": OldOp("unpool", {"padding": "paddings"}, attrs=lambda node: {"unpooling_type": "max"}),
    "unsqueeze": OldOp("unsqueeze2", {"axis": "axes"}, {"axis": ("AxesTensor", "AxesTensorList")}),
    "unstack": OldOp("unstack", {"out": "Y"}),
}
"""Row of an op of the graph; an op that is missing has the same name in the old format."""

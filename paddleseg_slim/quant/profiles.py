"""Target profiles: what an engine wants of a quantized graph, as data.

A profile answers, for one family of engines: which integers activations and weights become, which ops run in them,
which ops pass the integers of their input on, and what must be left out because the engine has no integer kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.quant.node import Grid, symmetric, unsigned

CONVOLUTIONS = frozenset({"conv2d", "depthwise_conv2d"})
TRANSPOSED = frozenset({"conv2d_transpose", "depthwise_conv2d_transpose"})
PRODUCTS = frozenset({"matmul", "addmm"})
MOVES = frozenset(
    {"reshape", "transpose", "flatten", "squeeze", "unsqueeze", "concat", "stack", "slice", "strided_slice", "split",
     "split_with_num", "max_pool2d_with_index", "nearest_interp", "pixel_shuffle", "shuffle_channel", "dropout"}
)  # fmt: skip
"""Ops whose outputs are elements of their inputs: what is on a grid stays on it."""

RESIZES = frozenset({"bilinear_interp"})
AVERAGES = frozenset({"pool2d"})


@dataclass(frozen=True)
class Profile:
    """What a family of engines wants.

    Attributes:
        name: as in ``--target``.
        about: one line for people.
        zero_point: of activations: ``0_or_middle`` (0 where the range starts at 0, else the middle of the unsigned
            integers), ``free`` (whatever fits the range) or ``0`` (signed integers).
        activation_bits: width of an activation.
        weight_bits: width of a weight, less than 8 where the engine adds products in 16 bits that would saturate.
        wide_weights: ops whose weights may have all 8 bits all the same.
        ops: ops with weights that run in integers.
        quantized_output: of these, ops that do so only if their output is quantized too.
        additions: quantize both inputs of an addition of activations.
        products_of_activations: quantize both inputs of a matmul of activations.
        through: ops that run on the integers of their input with its scale.
        bias: ``float`` or ``int32``: how the exported file holds a bias.
        signed_middle: whether the exported file holds unsigned integers around their middle as signed ones around 0.
            OpenVINO corrects every sum of products for another zero point than 0; ONNX Runtime wants one type.
        integer_sizes: whether sizes are read of integers in the exported file. Engines on a CPU dequantize a whole
            tensor that a Shape reads; TensorRT wants a DequantizeLinear behind every QuantizeLinear.
        float_patches: convolutions of few channels with an even kernel and a long stride (`placement.is_patch`) stay
            float: OpenVINO 2026.4.1 computes them wrong in int8 on processors with AMX.
        logits_share: layers behind which no other layer comes stay float if they have at most this share of the MACs.
        engines: engines whose speed is the purpose.
    """

    name: str
    about: str
    zero_point: str
    activation_bits: int
    weight_bits: int
    wide_weights: frozenset[str]
    ops: frozenset[str]
    quantized_output: frozenset[str]
    additions: bool
    products_of_activations: bool
    through: frozenset[str]
    bias: str
    signed_middle: bool
    integer_sizes: bool
    float_patches: bool
    logits_share: float
    engines: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, bits in (("activation_bits", self.activation_bits), ("weight_bits", self.weight_bits)):
            if not 2 <= bits <= 8:
                raise UserError(f"{name} is {bits}.", "Give 2 to 8.")

    def weight_grid(self, op: str, axis: int | None) -> Grid:
        """The integers of a weight of ``op``; stored in 8 bits whatever their width."""
        bits = self.weight_bits
        if op in self.wide_weights and bits == 7:
            bits = 8
        return symmetric(bits, axis, stored_bits=8)

    def activation_grid(self) -> Grid:
        """The integers of an activation; whether they are signed does not depend on its range."""
        if self.zero_point != "0":
            return unsigned(self.activation_bits)
        top = 2 ** (self.activation_bits - 1)
        return Grid(self.activation_bits, -top, top - 1)

    def file_options(self) -> dict[str, Any]:
        """Options of the ONNX writer (`deploy.onnx.write_onnx`) for a file of this target."""
        return {
            "int32_bias": self.bias == "int32",
            "signed_middle": self.signed_middle,
            "integer_sizes": self.integer_sizes,
        }

    def with_bits(self, weight_bits: int | None = None, activation_bits: int | None = None) -> Profile:
        """The same profile with other widths; None keeps one."""
        return replace(
            self,
            weight_bits=weight_bits or self.weight_bits,
            activation_bits=activation_bits or self.activation_bits,
        )


_CPU = Profile(
    name="cpu",
    about="x86 with AVX2, 16-bit accumulation: ONNX Runtime and OpenVINO",
    zero_point="0_or_middle",
    activation_bits=8,
    weight_bits=7,
    wide_weights=frozenset({"depthwise_conv2d"}),
    ops=CONVOLUTIONS | PRODUCTS,
    quantized_output=CONVOLUTIONS,
    additions=True,
    products_of_activations=False,
    through=MOVES,
    bias="int32",
    signed_middle=False,
    integer_sizes=True,
    float_patches=True,
    logits_share=0.02,
    engines=("onnxruntime", "openvino"),
)

_OPENVINO = replace(
    _CPU,
    name="openvino",
    about="OpenVINO on x86 with AVX2; transposed convolutions too",
    ops=CONVOLUTIONS | PRODUCTS | TRANSPOSED,
    quantized_output=frozenset(),
    signed_middle=True,
    logits_share=0.005,  # a 3x3 one (0.7 % of U-Net) takes a fifth of its time in float; a 1x1 one gains nothing
    engines=("openvino",),
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _CPU,
        replace(
            _CPU,
            name="cpu-vnni",
            about="x86 with VNNI or AMX, 32-bit accumulation: ONNX Runtime and OpenVINO",
            weight_bits=8,
        ),
        _OPENVINO,
        replace(
            _OPENVINO,
            name="openvino-vnni",
            about="OpenVINO on x86 with VNNI or AMX; transposed convolutions too",
            weight_bits=8,
        ),
        replace(
            _CPU,
            name="tensorrt",
            about="TensorRT: signed activations without zero points, biases in float",
            zero_point="0",
            weight_bits=8,
            ops=CONVOLUTIONS | PRODUCTS | TRANSPOSED,
            quantized_output=frozenset(),
            products_of_activations=True,
            bias="float",
            integer_sizes=False,
            float_patches=False,
            engines=("tensorrt",),
        ),
        replace(
            _CPU,
            name="generic",
            about="no engine in particular: asymmetric activations, 8-bit weights",
            zero_point="free",
            weight_bits=8,
            ops=CONVOLUTIONS | PRODUCTS | TRANSPOSED,
            quantized_output=frozenset(),
            products_of_activations=True,
            bias="float",
            integer_sizes=False,
            float_patches=False,
            engines=(),
        ),
    )
}


def get_profile(name: str) -> Profile:
    """The profile called ``name``.

    Raises:
        UserError: there is none.
    """
    if name not in PROFILES:
        raise UserError(f"Unknown target {name!r}.", nearest(name, PROFILES))
    return PROFILES[name]

"""Calibration: one pass of the float model over images, from which every quantized form of it is made offline."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Executor, Graph, GraphLayer, Node, extract
from paddleseg_slim.quant.insert import insert, round_biases
from paddleseg_slim.quant.node import fake_quantize_array
from paddleseg_slim.quant.observers import Scale, Statistics, choose, weight_scales
from paddleseg_slim.quant.placement import Placement, activation_of, bias_name, channel_axis, weight_of

_LOG = logging.getLogger(__name__)

FEW_IMAGES = 8
"""With fewer calibration images than this a warning is logged."""


@dataclass(frozen=True)
class Choice:
    """How ranges are chosen from the statistics.

    Attributes:
        observer: of activations: a name of `observers.OBSERVERS`, or ``auto``.
        hist_share: share of the values that ``hist`` keeps.
        search_weights: weight scales by least squared error instead of the largest magnitude.
        bias_correction: correct each bias by the mean error of its rounded weight.
    """

    observer: str = "auto"
    hist_share: float = 0.99999
    search_weights: bool = True
    bias_correction: bool = True


@dataclass
class Calibration:
    """The float model with what was seen on the calibration images.

    Attributes:
        layer: the float model with folded normalisations; never changed.
        placement: where quantizers go.
        statistics: of each activation site, by value name.
        means: mean of each channel of the input of each quantized layer, by layer name.
        images: how many images were seen.
    """

    layer: GraphLayer
    placement: Placement
    statistics: dict[str, Statistics]
    means: dict[str, np.ndarray] = field(default_factory=dict)
    images: int = 0

    def scales(self, choice: Choice) -> dict[str, Scale]:
        """The scale of every group of activations."""
        profile = self.placement.profile
        groups: dict[str, Statistics] = {}
        grids = {}
        for site in self.placement.activations():
            seen = self.statistics[site.value]
            groups[site.group] = groups[site.group].merge(seen) if site.group in groups else seen
            grids[site.group] = site.grid
        return {
            name: choose(seen, grids[name], profile.zero_point, choice.observer, choice.hist_share)
            for name, seen in groups.items()
        }

    def weight_scales(self, choice: Choice) -> dict[str, np.ndarray]:
        """The scales of every weight."""
        return {
            site.value: weight_scales(self.layer.tensor(site.value).numpy(), site.grid, choice.search_weights)
            for site in self.placement.weights()
        }

    def quantized(self, choice: Choice | None = None) -> GraphLayer:
        """A quantized copy of the model."""
        choice = choice or Choice()
        layer = copy.deepcopy(self.layer)
        weights = self.weight_scales(choice)
        insert(layer, self.placement, self.scales(choice), weights)
        self.settle_biases(layer, choice, weights)
        return layer

    def settle_biases(self, layer: GraphLayer, choice: Choice, weights: Mapping[str, np.ndarray]) -> None:
        """Correct the biases of a quantized model that has those of the float one, and round them if the target does.

        Args:
            layer: quantized, changed in place.
            choice: whether to correct.
            weights: its scales of the weights.
        """
        if choice.bias_correction:
            self._correct_biases(layer, weights)
        if self.placement.profile.bias == "int32":
            round_biases(layer)

    def _correct_biases(self, layer: GraphLayer, scales: Mapping[str, np.ndarray]) -> None:
        """Add to each bias what rounding the weight takes from the mean output (Nagel et al. 2019, section 4.2)."""
        grids = {site.value: site.grid for site in self.placement.weights()}
        for name in self.placement.layers:
            node = self.layer.eval_graph.node(name)
            weight, bias = weight_of(node).name, bias_name(self.layer.eval_graph, node)
            if bias is None or name not in self.means:
                continue
            array = layer.tensor(weight).numpy()
            lost = array - fake_quantize_array(array, scales[weight], grids[weight])
            shift = output_of_constant(node, lost, self.means[name])
            old = layer.tensor(bias).numpy()
            layer.tensor(bias).set_value((old.reshape(-1) + shift).reshape(old.shape).astype(old.dtype))


def output_of_constant(node: Node, weight: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Output of each channel of a layer with this weight on an input that is ``mean`` in each channel everywhere."""
    if node.op in ("conv2d", "depthwise_conv2d"):
        groups = int(node.attrs.get("groups", 1))
        kernel = weight.sum(axis=(2, 3)).reshape(groups, -1, weight.shape[1])
        return np.einsum("goi,gi->go", kernel, mean.reshape(groups, -1)).reshape(-1)
    if channel_axis(node) == 0 and "transpose" not in node.op:  # a linear layer with its weight as [out, in]
        return weight @ mean
    if node.op in ("matmul", "addmm"):
        return mean @ weight
    groups = int(node.attrs.get("groups", 1))
    kernel = weight.reshape(groups, -1, *weight.shape[1:])
    strides = np.prod(node.attrs.get("strides", [1, 1]))  # of each output, one in so many products is not on a gap
    return np.einsum("gio,gi->go", kernel.sum(axis=(3, 4)), mean.reshape(groups, -1)).reshape(-1) / strides


def calibrate(
    layer: GraphLayer, placement: Placement, batches: Iterable[np.ndarray], executor: Executor
) -> Calibration:
    """Run the model over the images once and collect the statistics of every quantizer.

    Args:
        layer: float, with folded normalisations.
        placement: made for it.
        batches: images float32 ``[N, C, H, W]``.
        executor: the engine to run in.

    Raises:
        UserError: there is no image, a tensor is not finite, or an input is the same constant on all images.
    """
    graph = layer.eval_graph
    sites = placement.activations()
    inputs = {name: activation_of(graph.node(name)).name for name in placement.layers}
    names = list(dict.fromkeys([*(site.value for site in sites), *inputs.values()]))
    fed = {value.name for value in graph.inputs}
    part = extract(graph, graph.inputs, [graph.value(name) for name in names if name not in fed])
    runner = executor.prepare(part, {name: layer.tensor(name).numpy() for name in part.parameters})
    result = Calibration(layer, placement, {site.value: Statistics() for site in sites})
    sums: dict[str, np.ndarray] = {}
    for batch in batches:
        feeds = {graph.inputs[0].name: np.ascontiguousarray(batch, np.float32)}
        found = {**feeds, **runner({value.name: feeds[value.name] for value in part.inputs})}
        for name, seen in result.statistics.items():
            seen.update(found[name])
        _add_channels(sums, found, graph, inputs, len(batch))
        result.images += len(batch)
    _check(result, graph.inputs[0].name)
    result.means = {name: total / result.images for name, total in sums.items()}
    return result


def _add_channels(
    sums: dict[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    graph: Graph,
    inputs: Mapping[str, str],
    count: int,
) -> None:
    """Add the channel means of a batch, times its images, for every layer."""
    cache: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        convolves = "conv" in graph.node(name).op
        key = f"{value}|{convolves}"
        if key not in cache:
            array = found[value]
            axes = (0, *range(2, array.ndim)) if convolves else tuple(range(array.ndim - 1))
            cache[key] = array.mean(axis=axes) * count
        sums[name] = sums[name] + cache[key] if name in sums else cache[key]


def _check(result: Calibration, input_name: str) -> None:
    if result.images == 0:
        raise UserError("There is no calibration image.", "Check the training list, or raise --batch_nums.")
    if result.images < FEW_IMAGES:
        _LOG.warning("Only %d calibration images: ranges can be too narrow.", result.images)
    seen = result.statistics.get(input_name)
    if seen is not None and seen.low == seen.high:
        raise UserError(
            f"All {result.images} calibration images are the same constant ({seen.low:g}): the range is 0.",
            "Give real images.",
        )


def with_layers(calibration: Calibration, keep: Sequence[str]) -> Calibration:
    """The same calibration for a placement that quantizes the layers in ``keep`` only, without another pass."""
    from paddleseg_slim.quant.placement import plan

    old = calibration.placement
    out = [name for name in (*old.layers, *old.left) if name not in keep]
    fresh = plan(
        calibration.layer,
        old.profile,
        old.shape,
        keep_float=out,
        all_layers=True,
        per_channel=_per_channel(old),
        macs=old.macs,
    )
    left = {name: old.left.get(name, reason) for name, reason in fresh.left.items()}
    return replace(calibration, placement=replace(fresh, left=left))


def _per_channel(placement: Placement) -> bool:
    return any(site.grid.axis is not None for site in placement.weights())

"""Choose the integers of the weights by what layers and blocks put out, on a few hundred images, without labels.

Two walks over the model, each in the order of the graph and on the *quantized* model's activations, so that a layer
makes up for the errors before it:

1. layer by layer, coordinate descent on the squared error of the output (`descent`): no gradients, a second a layer;
2. while time is left, block by block, AdaRound (Nagel et al. 2020) on the output of a block as in BRECQ (Li et al.
   2021), from the integers of the first walk. As in QDrop (Wei et al. 2022) a random half of the input elements is
   taken from the float model, which makes the result flatter around the calibration images.

Only the activations alive between two blocks are kept, so both models run once over the images in each walk, whatever
the number of blocks. A choice is kept only if it is better on images that it was not made from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Executor, GraphLayer, Node, PaddleExecutor, extract
from paddleseg_slim.quant import descent
from paddleseg_slim.quant.blocks import Block, find_blocks
from paddleseg_slim.quant.insert import round_biases
from paddleseg_slim.quant.placement import activation_of, bias_name, weight_of
from paddleseg_slim.quant.rounding import Arrays, BlockFunction, RoundedWeight, RoundingTrainer, weight_quantizer

STEPS = 400
"""Most training steps of a block."""

_BATCH = 32
_ELEMENTS = 1 << 20
"""Most elements of one step's inputs and outputs."""

_KEPT = 1 << 26
"""Most elements of the activations kept between two blocks; more images than that are left out."""


@dataclass
class Report:
    """What a reconstruction did. Errors are on images that nothing was chosen by.

    Attributes:
        layers: layer -> squared error of its output before and after the descent.
        blocks: first layer of a block -> error of the block's outputs, as a share of their power, before and after
            the training.
        left_out: layers that the time did not suffice for.
        images: how many images were used.
    """

    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    blocks: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    images: int = 0

    def line(self) -> str:
        """A sentence."""
        rest = f"; no time for {len(self.left_out)}" if self.left_out else ""
        return (
            f"{len(self.layers)} layers, median error {_median(self.layers)} of that of rounding to nearest; "
            f"{len(self.blocks)} blocks trained, to {_median(self.blocks)} of theirs; {self.images} images{rest}"
        )


def _median(errors: Mapping[str, tuple[float, float]]) -> str:
    ratios = [after / before for before, after in errors.values() if before > 0]
    return f"{np.median(ratios):.2f}" if ratios else "-"


def reconstruct(
    layer: GraphLayer,
    model: GraphLayer,
    batches: Sequence[np.ndarray],
    seconds: float,
    *,
    executor: Executor | None = None,
    steps: int = STEPS,
    seed: int = 0,
    int32_bias: bool = False,
) -> Report:
    """Choose the integers of every quantized weight of ``layer``, and its biases, in place.

    Args:
        layer: the quantized model; its weights become exact multiples of their scales.
        model: the float model that it was made of, with the same node names.
        batches: calibration images, float32 ``[N, C, H, W]``; those of the first one's size count.
        seconds: time budget; layers beyond it keep rounding to nearest.
        executor: for the passes over the images; Paddle's when None.
        steps: most training steps of a block; 0 trains none.
        seed: of the choice of images and elements.
        int32_bias: round the biases to the steps of their accumulators at the end (`profiles.Profile.bias`).

    Raises:
        UserError: the budget is not above 0, or there are fewer than two images.
    """
    images = np.concatenate([b for b in batches if b.shape[1:] == batches[0].shape[1:]]) if len(batches) else None
    if seconds <= 0 or images is None or len(images) < 2:
        raise UserError(f"Reconstruction with {seconds} s and {len(batches)} batches.", "Give time and images.")
    run = _Reconstruction(layer, model, images, executor or PaddleExecutor(), seed)
    end = time.monotonic() + seconds
    run.descend(end)
    if steps > 0:
        run.train(end, steps)
    if int32_bias:
        round_biases(layer)
    return run.report


def quantized_layers(layer: GraphLayer) -> list[str]:
    """Names of the layers whose weight has a quantizer."""
    return [node.name for node in layer.eval_graph.nodes if weight_quantizer(node) is not None]


class _Reconstruction:
    """Walks through the blocks of both models with the activations that are alive."""

    def __init__(self, layer: GraphLayer, model: GraphLayer, images: np.ndarray, executor: Executor, seed: int) -> None:
        self.layer, self.model, self.executor, self.seed = layer, model, executor, seed
        self.rng = np.random.default_rng(seed)
        self.names = quantized_layers(layer)
        self.input = model.eval_graph.inputs[0].name
        self.singles = find_blocks(model.eval_graph, self.names, most=1)
        self.images = images[self.rng.permutation(len(images))[: self._count(images)]]
        self.report = Report(images=len(self.images))

    def _count(self, images: np.ndarray) -> int:
        """How many images the activations of the widest cut leave room for."""
        alive, largest = {self.input: images[:1]}, images[0].size
        for block in self.singles:
            alive = self._forward(self.model, block, alive)
            largest = max(largest, sum(array.size for array in alive.values()))
        return int(np.clip(_KEPT // largest, 2, len(images)))

    def descend(self, end: float) -> None:
        """Layer by layer."""
        exact: Arrays = {self.input: self.images}
        given = exact
        uses = Counter(weight_of(self.layer.eval_graph.node(name)).name for name in self.names)
        for block in self.singles:
            if time.monotonic() > end:
                self.report.left_out += block.layers
                continue
            for name in block.layers:
                node = self.model.eval_graph.node(name)
                if descent.can_descend(node) and uses[weight_of(node).name] == 1:
                    self._descend(node, block, given, exact)
            given, exact = self._forward(self.layer, block, given), self._forward(self.model, block, exact)

    def _descend(self, node: Node, block: Block, given: Arrays, exact: Arrays) -> None:
        """Choose the integers and the bias of one layer, if they are better on samples that they do not come from."""
        graph, name = self.layer.eval_graph, node.name
        weight = RoundedWeight.of(self.layer, self.model, name)
        assert weight is not None
        reads = activation_of(node).name, activation_of(graph.node(name)).name
        arrays = [
            self._values(model, block, alive, [value])[value]
            for model, alive, value in zip((self.model, self.layer), (exact, given), reads)
        ]
        samples = descent.product_samples(node, arrays, weight.exact.shape, self.seed)
        order = self.rng.permutation(len(samples[0]))
        held, used = order[: len(order) // 8], order[len(order) // 8 :]
        bias = bias_name(self.model.eval_graph, node)
        moments = descent.Moments.of(samples[0][used], samples[1][used], centred=bias is not None)
        scale = np.broadcast_to(weight.scale, weight.exact.shape)
        rows, start, steps = (descent.as_rows(node, a) for a in (weight.exact, weight.present, scale))
        chosen = descent.descend(rows, start, steps[..., :1], moments, weight.grid)
        first, second = (array[held] for array in samples)
        before, after = (descent.output_error(rows, item, first, second, moments) for item in (start, chosen))
        self.report.layers[name] = before, min(before, after)
        if after >= before:
            return
        self.layer.set_tensor(weight.name, descent.from_rows(node, chosen, weight.exact.shape).astype("float32"))
        if bias is not None:
            old = self.model.tensor(bias).numpy()
            shift = descent.bias_shift(rows, chosen, moments)
            self.layer.set_tensor(bias, (old.reshape(-1) + shift).reshape(old.shape).astype(old.dtype))

    def train(self, end: float, steps: int) -> None:
        """Block by block."""
        blocks = find_blocks(self.model.eval_graph, self.names)
        exact: Arrays = {self.input: self.images}
        given, done = exact, set[str]()
        for index, block in enumerate(blocks):
            left = end - time.monotonic()
            if left <= 0:
                break
            target = self._forward(self.model, block, exact)
            stop = time.monotonic() + left / (len(blocks) - index)
            done |= self._train(block, given, exact, target, stop, steps, done)
            given, exact = self._forward(self.layer, block, given), target

    def _train(
        self,
        block: Block,
        given: Arrays,
        exact: Arrays,
        target: Arrays,
        stop: float,
        steps: int,
        done: Collection[str],
    ) -> set[str]:
        """Train a block; returns the names of its weights."""
        function = BlockFunction(self.layer, self.model, block, done)
        if function.weights:
            names = [*((given, name) for name in function.reads), *((target, name) for name in block.outputs)]
            size = sum(arrays[name][0].size for arrays, name in names)
            batch = max(1, min(_BATCH, _ELEMENTS // size))
            trainer = RoundingTrainer(function, given, exact, target, batch, self.rng)
            self.report.blocks[block.layers[0]] = trainer.run(steps, stop)
        return {weight.name for weight in function.weights}

    def _forward(self, model: GraphLayer, block: Block, alive: Arrays) -> Arrays:
        """The activations alive behind a block."""
        kept = {name: alive[name] for name in block.alive if name in alive}
        return {self.input: alive[self.input], **kept, **self._values(model, block, alive, block.outputs)}

    def _values(self, model: GraphLayer, block: Block, alive: Arrays, wanted: Sequence[str]) -> Arrays:
        """Values inside a block, or at its ends, from what is alive before it."""
        graph = model.eval_graph
        computed = [graph.value(name) for name in wanted if name not in alive]
        found = {name: alive[name] for name in wanted if name in alive}
        if not computed:
            return found
        part = extract(graph, [graph.value(name) for name in block.inputs], computed)
        runner = self.executor.prepare(part, {name: model.tensor(name).numpy() for name in part.parameters})
        names, rows = [value.name for value in part.inputs], []
        for start in range(0, len(alive[self.input]), _BATCH):
            rows.append(runner({name: alive[name][start : start + _BATCH] for name in names}))
        return {**found, **{value.name: np.concatenate([row[value.name] for row in rows]) for value in computed}}

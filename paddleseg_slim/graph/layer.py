"""GraphLayer: a `paddle.nn.Layer` that owns parameters and runs the graph of its present mode."""

from __future__ import annotations

import copy as copying
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import paddle
from paddle import nn

from paddleseg_slim.compat import Parameter, dtype_name
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.ir import Graph, Value, flatten, map_structure
from paddleseg_slim.graph.run import Plan, run_static


class Holder(nn.Layer):
    """A place in the tree of parameters, so that they keep the structured names of the source model."""


class GraphLayer(nn.Layer):
    """A model as a graph. Trains, evaluates, saves its state and is traced again as any layer.

    Args:
        train_graph: the graph in train mode.
        eval_graph: the graph in eval mode; both read the same parameters by name.
        record: what was done to the model so far, an ordered list of plain data (``compression.json``).
        origin: how the graphs were made: ``dynamic``, ``fixed``, ``to_static``, ``loaded``.

    Shape: inputs as captured; the output has the nested structure of the source model.
    """

    def __init__(
        self,
        train_graph: Graph,
        eval_graph: Graph,
        record: Iterable[dict[str, Any]] = (),
        origin: str = "dynamic",
    ) -> None:
        super().__init__()
        self.train_graph = train_graph
        self.eval_graph = eval_graph
        self.record: list[dict[str, Any]] = list(record)
        self.origin = origin
        self._places: dict[str, tuple[nn.Layer, str]] = {}
        self._plans: dict[str, tuple[Plan, list[tuple[int, dict[str, Any], str]]]] = {}

    @property
    def graph(self) -> Graph:
        """The graph of the present mode."""
        return self.train_graph if self.training else self.eval_graph

    @property
    def graphs(self) -> tuple[Graph, Graph]:
        """Both graphs: train, eval."""
        return self.train_graph, self.eval_graph

    def add_tensor(self, name: str, tensor: Any, persistable: bool = True) -> None:
        """Own ``tensor`` under a structured name; a Paddle parameter becomes a parameter.

        ``persistable`` is whether `state_dict` has it when it is no parameter.
        """
        holder: nn.Layer = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in holder._sub_layers:
                holder._sub_layers[part] = Holder()
            holder = holder._sub_layers[part]
        if isinstance(tensor, Parameter):
            holder._parameters[leaf] = tensor
        else:
            holder._buffers[leaf] = tensor
            if not persistable:
                holder._non_persistable_buffer_names_set.add(leaf)
        self._places[name] = (holder, leaf)
        self._plans.clear()

    def tensor(self, name: str) -> Any:
        """The stored tensor called ``name``: a parameter, a statistic or a fixed tensor (KeyError)."""
        table, leaf = self._table(name)
        return table[leaf]

    def has_tensor(self, name: str) -> bool:
        """Whether a stored tensor has this name."""
        return name in self._places

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Every stored tensor with its structured name, in the order of the source model."""
        for name in self._places:
            yield name, self.tensor(name)

    def set_tensor(self, name: str, array: Any) -> None:
        """Give a stored tensor another content, also of another shape; it stays trainable or fixed as it was.

        The values of this name in both graphs get the new shape; call `refresh_shapes` on the graphs after the last
        change. An optimizer must be made anew when the shape changed.
        """
        table, leaf = self._table(name)
        old = table[leaf]
        new = paddle.to_tensor(array, dtype=old.dtype)
        if isinstance(old, Parameter):
            parameter = Parameter.from_tensor(
                new,
                trainable=old.trainable,
                name=old.name,
                optimize_attr=old.optimize_attr,
                regularizer=old.regularizer,
            )
            parameter.stop_gradient = old.stop_gradient
            parameter.need_clip = old.need_clip
            new = parameter
        table[leaf] = new
        for graph in self.graphs:
            if name in graph.parameters:
                graph.parameters[name].shape = tuple(new.shape)
                graph.touch()

    def tensor_kind(self, name: str) -> dict[str, Any]:
        """What a stored tensor is: ``dtype``, ``parameter``, ``trainable``, ``persistable``, ``learning_rate``."""
        holder, leaf = self._places[name]
        tensor = self.tensor(name)
        is_parameter = leaf in holder._parameters
        return {
            "dtype": dtype_name(tensor.dtype),
            "parameter": is_parameter,
            "trainable": not tensor.stop_gradient,
            "persistable": leaf not in holder._non_persistable_buffer_names_set,
            "learning_rate": float(tensor.optimize_attr.get("learning_rate", 1.0)) if is_parameter else 1.0,
        }

    def remove_tensor(self, name: str) -> None:
        """Forget a stored tensor that neither graph reads."""
        if any(name in graph.parameters for graph in self.graphs):
            raise ValueError(f"{name!r} is still read by a graph")
        table, leaf = self._table(name)
        del table[leaf], self._places[name]

    def _table(self, name: str) -> tuple[dict[str, Any], str]:
        holder, leaf = self._places[name]
        return (holder._parameters if leaf in holder._parameters else holder._buffers), leaf

    def add_parameter_value(self, name: str) -> None:
        """Let both graphs read the stored tensor ``name`` (it becomes one of ``graph.parameters``)."""
        tensor = self.tensor(name)
        for graph in self.graphs:
            if name not in graph.parameters:
                graph.parameters[name] = Value(name, dtype_name(tensor.dtype), tuple(tensor.shape))
                graph.touch()

    def _plan(self) -> tuple[Plan, list[tuple[int, dict[str, Any], str]]]:
        mode = "train" if self.training else "eval"
        graph = self.graph
        if mode not in self._plans or self._plans[mode][0].version != graph.version:
            plan = Plan(graph)
            self._plans[mode] = plan, [(slot, *self._table(name)) for slot, name in plan.parameters]
        return self._plans[mode]

    def forward(self, *inputs: Any) -> Any:
        """Run the graph of the present mode.

        Raises:
            UserError: a wrong number of inputs, or an input size at which the graph does not hold.
        """
        graph = self.graph
        if len(inputs) != len(graph.inputs):
            names = ", ".join(value.name for value in graph.inputs)
            raise UserError(f"The model takes {len(graph.inputs)} inputs ({names}), {len(inputs)} given.", "Give all.")
        if paddle.in_dynamic_mode():
            plan, parameters = self._plan()
            results = dict(zip(plan.wanted, plan.run(inputs, parameters)))
            for name, value in graph.updates.items():  # not in place: the backward pass may need the old one
                table, leaf = self._table(name)
                table[leaf] = results[value].detach()
        else:
            results = run_static(graph, inputs, {name: self.tensor(name) for name in graph.parameters})
            for name, value in graph.updates.items():
                setattr(*self._places[name], results[value])
        return map_structure(lambda leaf: results[leaf] if isinstance(leaf, Value) else leaf, graph.outputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphLayer:
        copy = GraphLayer(self.train_graph.clone(), self.eval_graph.clone(), self.record, self.origin)
        copy.record = copying.deepcopy(self.record, memo)
        copy.training = self.training
        for name, tensor in self.tensors():
            copy.add_tensor(name, copying.deepcopy(tensor, memo), self.tensor_kind(name)["persistable"])
        return copy

    def __repr__(self) -> str:
        nodes = f"{len(self.train_graph.nodes)} / {len(self.eval_graph.nodes)} nodes"
        return f"GraphLayer({nodes} in train / eval mode, {len(self._places)} tensors, {self.origin})"


def new_parameter(tensor: Any, name: str, trainable: bool, learning_rate: float = 1.0) -> Any:
    """Make a Paddle parameter of ``tensor``.

    Args:
        tensor: its content.
        name: Paddle's own name of it, by which optimizers keep their state.
        trainable: whether it gets a gradient.
        learning_rate: factor on the learning rate.
    """
    parameter = Parameter.from_tensor(
        tensor, trainable=trainable, name=name, optimize_attr={"learning_rate": learning_rate}
    )
    parameter.stop_gradient = not trainable
    return parameter


def output_tensors(outputs: Any) -> Sequence[Any]:
    """The tensors among nested outputs, in order."""
    return [leaf for leaf in flatten(outputs) if isinstance(leaf, paddle.Tensor)]

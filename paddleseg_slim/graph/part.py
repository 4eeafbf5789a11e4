"""Parts of a graph: cut out, cut in two at what changes, or fixed to one input size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from paddleseg_slim.graph.dispatch import INTS, SCALAR, declared_arguments
from paddleseg_slim.graph.edit import remove_dead_nodes
from paddleseg_slim.graph.host import as_integer_list, as_integers, as_scalar, host_nodes
from paddleseg_slim.graph.ir import Graph, Node, Slot, Value, map_structure, slot_values
from paddleseg_slim.graph.shapes import infer_shapes, sized


def extract(graph: Graph, inputs: Iterable[Value], outputs: Iterable[Value]) -> Graph:
    """The part of ``graph`` that makes ``outputs`` from ``inputs``, as a graph of its own with the same names.

    Its outputs are a dict from value name to value. Inputs of ``graph`` that it needs as well become inputs too.

    Raises:
        KeyError: a value is not of this graph.
    """
    given, wanted = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
    nodes = graph.ancestors(wanted, given)
    read = dict.fromkeys([value for node in nodes for value in node.input_values()] + wanted)
    given += [value for value in graph.inputs if value in read and value not in given]
    copies: dict[Value, Value] = {value: Value(value.name, value.dtype, value.shape) for value in given}
    part = Graph([copies[value] for value in given])
    for name, value in graph.parameters.items():
        if value in read and value not in copies:
            part.parameters[name] = copies[value] = Value(name, value.dtype, value.shape)
    for node in nodes:
        part.nodes.append(copy_node(node, copies))
    part.outputs = {value.name: copies[value] for value in wanted}
    return part


def copy_node(node: Node, copies: dict[Value, Value]) -> Node:
    """Copy a node for another graph; ``copies`` maps the values it reads, and gains its outputs."""
    attrs = {name: map_structure(lambda leaf: leaf, value) for name, value in node.attrs.items()}
    inputs: dict[str, Slot] = {}
    for argument, slot in node.inputs.items():
        values = [copies[value] for value in slot_values(slot)]
        inputs[argument] = values if isinstance(slot, list) else values[0] if values else None
    copy = Node(node.name, node.op, inputs, attrs, layer=node.layer)
    for name, output in node.outputs.items():
        made = [Value(value.name, value.dtype, value.shape, copy) for value in slot_values(output)]
        copies.update(zip(slot_values(output), made))
        copy.outputs[name] = made if isinstance(output, list) else made[0]
    return copy


def split(graph: Graph, changed: Iterable[Value]) -> tuple[Graph, Graph]:
    """Cut ``graph`` in two: what does not depend on ``changed``, and what does.

    The first part makes the values that the second reads, ``changed`` activations among them: run it once, keep the
    result, and run the second part as often as ``changed`` changes. Changed parameters stay parameters of the second
    part; so does what is computed from parameters or from shapes alone.

    Returns:
        ``(prefix, suffix)``; the outputs of ``prefix`` are a dict by value name, with the names of the inputs of
        ``suffix``; the outputs of ``suffix`` are those of ``graph`` that depend on ``changed``, by name.
    """
    changed = list(dict.fromkeys(changed))
    activations = [value for value in changed if value not in graph.parameters.values()]
    cheap = cheap_values(graph)
    again = {value for node in graph.dependents(changed) for value in node.output_values()} | cheap
    needed = [value for value in graph.output_values() if value in again - cheap or value in activations]
    given = list(dict.fromkeys([*activations, *_frontier(graph, needed, again.difference(activations))]))
    return extract(graph, graph.inputs, given), extract(graph, given, needed)


def part_behind(graph: Graph, nodes: Iterable[Node], output: Value) -> Graph | None:
    """The part of ``graph`` from these nodes to ``output``, of what depends on them alone; None where nothing does.

    Its inputs are the values that it reads from the rest, by name; what is computed from parameters or from shapes
    alone is in it as well.
    """
    made = [value for node in nodes for value in node.output_values()]
    depends = set(made) | {value for node in graph.dependents(made) for value in node.output_values()}
    if output not in depends:
        return None
    return extract(graph, _frontier(graph, [output], depends | cheap_values(graph)), [output])


def _frontier(graph: Graph, wanted: Iterable[Value], inside: Collection[Value]) -> list[Value]:
    """Values outside of ``inside``, no parameters, that ``wanted`` are computed from by what is inside."""
    stop = [value for value in graph.values() if value not in inside]
    read = dict.fromkeys(value for node in graph.ancestors(wanted, stop) for value in node.input_values())
    return [value for value in read if value not in inside and graph.parameter_name(value) is None]


def cheap_values(graph: Graph) -> set[Value]:
    """Values computed from shapes or from parameters alone: a part that reads them computes them itself."""
    return _from_parameters(graph) | {value for node in host_nodes(graph) for value in node.output_values()}


def _from_parameters(graph: Graph) -> set[Value]:
    """Values computed from parameters alone, such as a bias reshaped to be added."""
    known = set(graph.parameters.values())
    made: set[Value] = set()
    for node in graph.nodes:
        if node.input_values() and all(value in known for value in node.input_values()):
            known.update(node.output_values())
            made.update(node.output_values())
    return made


def fix_size(graph: Graph, inputs: Sequence[Sequence[int]]) -> Graph:
    """A copy of ``graph`` for one input size: every shape is static, and no integer is computed from shapes.

    Args:
        graph: left as it is.
        inputs: shape of every input.

    Raises:
        GuardFailed: the model takes another path at this size than the captured one.
    """
    from paddleseg_slim.graph.run import check_guards

    copy = graph.clone()
    shapes = infer_shapes(copy, [tuple(shape) for shape in inputs])
    check_guards([(value, expected, shapes.host_value(value)) for value, expected in copy.guards], inputs)
    copy.guards = []
    for node in copy.nodes:
        known = sized(node, shapes.host)
        node.inputs, node.attrs = known.inputs, known.attrs
        kinds = dict(declared_arguments(node.op) or ())
        for argument, slot in list(node.inputs.items()):
            values = slot_values(slot)
            if kinds.get(argument) not in (INTS, SCALAR) or not values or any(v not in shapes.host for v in values):
                continue
            held = [shapes.host[value] for value in values]
            del node.inputs[argument]
            convert = as_scalar if kinds[argument] == SCALAR else as_integers
            node.attrs[argument] = as_integer_list(*held) if isinstance(slot, list) else convert(held[0])
    for value in copy.values():
        if value.producer is not None:
            value.shape = shapes.shape(value)
    for value, shape in zip(copy.inputs, inputs):
        value.shape = tuple(shape)
    _replace_shape_reads(copy, shapes.host)
    remove_dead_nodes(copy)
    return copy


def _replace_shape_reads(graph: Graph, host: dict[Value, np.ndarray]) -> None:
    """Turn every host node into a constant, for the tensors that still read it (``size_tensor`` of a resize)."""
    for node in graph.nodes:
        if node.output_values() and node.out in host:
            array = host[node.out]
            node.op, node.inputs = "assign_value", {}
            node.attrs = {
                "shape": list(array.shape),
                "dtype": node.out.dtype,
                "values": [item.item() for item in array.reshape(-1)],
            }
    graph.touch()

"""Reading a PIR program into a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.dispatch import INTS, PLACE, SCALAR, declared_arguments, plain_name
from paddleseg_slim.graph.ir import Graph, Node, Value, map_structure, slot_values

SKIPPED = frozenset({"pd_op.assert", "pd_op.assert_", "pd_op.print", "builtin.shadow_output", "pd_op.fetch"})
"""Ops without an effect on the outputs."""

_WRITES = {
    "pd_op.set_value_": 0,
    "pd_op.set_value_with_tensor_": 0,
    "pd_op.index_put_": 0,
    "pd_op.fill_": 0,
    "pd_op.assign_out_": 1,
}
"""Ops that write into an input, and which: ``x[:, 0] = 3``."""

SINGLE_RESULT = frozenset({"einsum"})
"""Ops whose further outputs are caches for the gradient, which some programs hide and some do not."""

_DIALECTS = ("pd_op.", "custom_op.")

NameNode = Callable[[Any, str], tuple[str, str]]
"""``(PIR operation, op) -> (layer path, name of the node)``."""


def plain_attribute(item: Any) -> Any:
    """An attribute as plain Python: data types by name; a device has no place in a graph and becomes None."""
    if compat.is_dtype(item):
        return compat.dtype_name(item)
    if compat.is_place(item):
        return None
    if isinstance(item, (list, tuple)):
        return [plain_attribute(part) for part in item]
    if hasattr(item, "item"):
        return item.item()
    return item


class ProgramReader:
    """Turns the operations of a program into nodes, in order, as many as there are at the time of a call.

    Args:
        program: a PIR program; it is kept, because its operations do not keep it alive.
        name_node: gives a node its layer path and its name.
    """

    def __init__(self, program: Any, name_node: NameNode) -> None:
        self.program = program
        self.graph = Graph([])
        self.stored: dict[int, Value] = {}
        """Values of ``builtin.parameter`` operations, by id, not named yet."""
        self.updates: dict[Value, Value] = {}
        """Stored tensor -> what the program writes into it."""
        self.fetched: list[Any] = []
        """Values that the program hands out, in order."""
        self._name_node = name_node
        self._values: dict[int, Any] = {}
        self._constants: dict[Value, tuple[Any]] = {}
        self._known: dict[int, Node | None] = {}

    def read(self) -> Graph:
        """Read the operations that were added since the last call."""
        operations = self.program.global_block().ops
        self.graph.nodes = []
        for stores in (True, False):  # a parameter may be declared behind its first use
            for operation in operations:
                if (operation.name() == "builtin.parameter") is stores:
                    self._once(operation)
        self.graph.touch()
        return self.graph

    def _once(self, operation: Any) -> None:
        key = operation.id()
        if key not in self._known:
            self._known[key] = self._operation(operation)
        node = self._known[key]
        if node is not None:
            self.graph.nodes.append(node)

    def value(self, pir_value: Any) -> Any:
        """The value (or list of values) of a PIR value that was read."""
        return self._values[pir_value.id]

    def _operation(self, operation: Any) -> Node | None:
        name = operation.name()
        if name in ("pd_op.fetch", "builtin.shadow_output"):
            self.fetched.append(self._values[operation.operands_source()[0].id])
        if name in SKIPPED:
            return None
        if operation.num_regions():
            raise UserError(
                f"The model has control flow that depends on data ({name}), which a graph cannot hold.",
                "Capture the sub-layers around it, or give fixed input sizes.",
            )
        results = operation.results()
        if name == "builtin.parameter":
            value = Value(operation.attrs()["parameter_name"], *_type(results[0]))
            self.stored[results[0].id] = self._values[results[0].id] = value
        elif name in ("pd_op.data", "pd_op.feed"):
            value = Value(operation.attrs()["name"], *_type(results[0]))
            self.graph.inputs.append(value)
            self._values[results[0].id] = value
        elif name == "builtin.combine":
            self._values[results[0].id] = [self._values[operand.id] for operand in operation.operands_source()]
        elif name == "builtin.split":
            for result, value in zip(results, self._values.get(operation.operands_source()[0].id, ())):
                self._values[result.id] = value
        elif name == "builtin.slice":
            index = operation.attrs()["index"]
            self._values[results[0].id] = self._values[operation.operands_source()[0].id][index]
        else:
            return self._node(operation, name, results)
        return None

    def _node(self, operation: Any, name: str, results: list[Any]) -> Node:
        if not name.startswith(_DIALECTS):
            raise UserError(f"The program has an operation of an unknown kind: {name}.", "Export the model again.")
        op = plain_name(name.split(".", 1)[1])
        attrs = operation.attrs()
        kinds = dict(declared_arguments(op) or ())
        node = Node("", op, {}, {})
        for argument, operand in zip(operation.get_input_names(), operation.operands_source()):
            slot = self._values[operand.id] if operand is not None and operand.initialized() else None
            if kinds.get(argument) == INTS and isinstance(slot, list) and len(slot) == 1:
                slot = slot[0]  # old programs wrap the whole tensor of sizes in a list
            constant = self._as_constant(slot, kinds.get(argument, ""))
            if constant is None:
                node.inputs[argument] = list(slot) if isinstance(slot, list) else slot
            else:
                node.attrs[argument] = constant[0]
        for attribute in operation.get_attr_names():
            value = plain_attribute(attrs[attribute])
            if kinds.get(attribute) != PLACE and not compat.is_place(attrs[attribute]):
                node.attrs[attribute] = value
        node.layer, node.name = self._name_node(operation, op)
        self._outputs(operation, node, results)
        if name in _WRITES:
            self._write(operation.operands_source()[_WRITES[name]], node.out)
        if op == "assign_value":  # filled in place: what was there before does not matter
            node.inputs.clear()
        if op in ("full", "full_int_array", "assign_value") and not node.inputs:
            held = node.attrs.get("value", node.attrs.get("values"))
            integral = node.out.dtype.startswith(("int", "uint"))
            self._constants[node.out] = (map_structure(int, held) if integral else held,)
        return node

    def _write(self, target: Any, made: Value) -> None:
        """Whoever reads what an op wrote into gets what it made."""
        producer = target.get_defining_op()
        self._values[target.id] = made
        if producer is not None and producer.name() == "builtin.parameter":
            self.updates[self.stored[target.id]] = made

    def _as_constant(self, slot: Any, kind: str) -> tuple[Any] | None:
        """The Python constant for an integer or number argument, when no input decides it."""
        if kind not in (INTS, SCALAR) or slot is None:
            return None
        known = [self._constants.get(value) for value in slot_values(slot)]
        if any(item is None for item in known):
            return None
        items = [item[0] for item in known if item is not None]
        if isinstance(slot, list):
            return ([int(_first(item)) for item in items],)
        item = items[0]
        if kind == SCALAR:
            return (_first(item),)
        return ([int(number) for number in (item if isinstance(item, list) else [item])],)

    def _outputs(self, operation: Any, node: Node, results: list[Any]) -> None:
        intermediate = operation.get_output_intermediate_status()
        for name, result, hidden in zip(operation.get_output_names(), results, intermediate):
            if hidden or not result.initialized() or (node.outputs and node.op in SINGLE_RESULT):
                continue
            full = node.name if not node.outputs else f"{node.name}:{name}"
            if result.is_combine() if hasattr(result, "is_combine") else False:
                types = [(compat.dtype_name(t.dtype), tuple(t.shape)) for t in result.type().as_vec_type().as_list()]
                values = [Value(f"{full}:{index}", *kind, node) for index, kind in enumerate(types)]
                node.outputs[name] = self._values[result.id] = values
            else:
                node.outputs[name] = self._values[result.id] = Value(full, *_type(result), node)


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, list) else item


def _type(value: Any) -> tuple[str, tuple[int, ...]]:
    return compat.dtype_name(value.dtype), compat.pir_shape(value)

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

RANDOM_OPS = frozenset({"uniform", "gaussian", "randint", "randperm", "bernoulli", "dropout", "multinomial"})
"""Ops that give another result each time."""


def has_effect(node: Node) -> bool:
    """Whether running a node changes something beside its outputs: statistics, or the next random numbers."""
    if node.op in ("batch_norm", "dropout"):
        return not node.attrs.get("is_test")
    return node.op in RANDOM_OPS or f"pd_op.{node.op}_" in _WRITES


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
        self._known: dict[int, list[Node]] = {}

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
        self.graph.nodes.extend(self._nodes(operation))

    def _nodes(self, operation: Any) -> list[Node]:
        """The nodes of an operation, read once: none of a declaration, those of both branches of a decision."""
        key = operation.id()
        if key not in self._known:
            if operation.name() == "pd_op.if":
                self._known[key] = self._decision(operation)
            elif operation.name() == "pd_op.linear_v2":
                self._known[key] = self._linear(operation)
            else:
                node = self._operation(operation)
                self._known[key] = [] if node is None else [node]
        return self._known[key]

    def _linear(self, operation: Any) -> list[Node]:
        """The product and the sum of a linear layer, which a Paddle that was built for GPUs calls one operation.

        Every other Paddle has the two, so that one model is one graph wherever it is captured.
        """
        x, weight, bias = (self._values[operand.id] for operand in operation.operands_source())
        transposed = bool(operation.attrs()["transpose_weight"])
        result = operation.results()[0]
        product = Node("", "matmul", {"x": x, "y": weight}, {"transpose_x": False, "transpose_y": transposed})
        product.layer, product.name = self._name_node(operation, product.op)
        product.outputs["out"] = Value(product.name, *_type(result), product)
        total = Node("", "add", {"x": product.out, "y": bias}, {})
        total.layer, total.name = self._name_node(operation, total.op)
        total.outputs["out"] = self._values[result.id] = Value(total.name, *_type(result), total)
        return [product, total]

    def _decision(self, operation: Any) -> list[Node]:
        """Both branches, and nodes that select one: what a branch computes has no effect but its result."""
        nodes: list[Node] = []
        yielded: list[list[Value]] = []
        for block in (operation.as_if_op().true_block(), operation.as_if_op().false_block()):
            for inner in block.ops:
                if inner.name() == "cf.yield":
                    yielded.append([self._values[operand.id] for operand in inner.operands_source()])
                else:
                    nodes.extend(self._nodes(inner))
        effect = next((node for node in nodes if has_effect(node)), None)
        if effect is not None:
            raise UserError(
                f"A branch of a decision on data holds {effect.name!r} ({effect.op}), which may not run when the other "
                "branch is taken.",
                "Move it out of the branch, or capture the sub-layers around the decision.",
            )
        condition = self._values[operation.operands_source()[0].id]
        for result, x, y in zip(operation.results(), *yielded):
            nodes.append(self._selection(operation, result, condition, x, y))
        return nodes

    def _selection(self, operation: Any, result: Any, condition: Value, x: Value, y: Value) -> Node:
        fit = len(x.shape) == len(y.shape) and all(a == b or -1 in (a, b) for a, b in zip(x.shape, y.shape))
        if not fit or x.dtype != y.dtype:
            raise UserError(
                f"The branches of a decision on data give {x!r} and {y!r}, of which a graph cannot select one.",
                "Let both branches give the same shape and type, or capture the sub-layers around the decision.",
            )
        node = Node("", "where", {"condition": condition, "x": x, "y": y}, {})
        node.layer, node.name = self._name_node(operation, "where")
        shape = tuple(a if a == b else -1 for a, b in zip(x.shape, y.shape))
        node.outputs["out"] = self._values[result.id] = Value(node.name, x.dtype, shape, node)
        return node

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
                "Write it as tensor operations, or capture the sub-layers around it.",
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

"""What takes up a constant that is added to every output of a layer: its bias, or the BatchNorm behind it."""

from __future__ import annotations

from paddleseg_slim.graph import Graph, Node


def bias_of(graph: Graph, node: Node, outputs: int) -> str | None:
    """Name of the parameter that is added to the ``outputs`` of ``node``, and to nothing else."""
    users = graph.users(node.out)
    if len(users) != 1 or users[0].op != "add" or graph.is_output(node.out):
        return None
    value = next((v for v in users[0].input_values() if v is not node.out), None)
    if value is None:  # added to itself
        return None
    if value.producer is not None and value.producer.op == "reshape":
        value = next(iter(value.producer.input_values()))
    elif node.op != "matmul":  # added to [N, C, H, W] as it is, it is one number a column
        return None
    name = graph.parameter_name(value)
    fits = list(value.shape) == [outputs] and len(graph.users(value)) == 1
    return name if fits else None


def mean_of(graph: Graph, node: Node, outputs: int) -> str | None:
    """Name of the mean of the BatchNorm of its own that alone reads the ``outputs`` of ``node``."""
    users = graph.users(node.out)
    if len(users) != 1 or users[0].op != "batch_norm" or graph.is_output(node.out):
        return None
    norm = users[0]
    if norm.attrs.get("data_format", "NCHW") != "NCHW" or (node.op == "matmul" and len(node.out.shape) != 2):
        return None
    stored = [value for value in norm.input_values() if graph.parameter_name(value) is not None]
    own = all(len(graph.users(value)) == 1 for value in stored)
    mean = norm.value("mean")
    return graph.parameter_name(mean) if own and list(mean.shape) == [outputs] else None

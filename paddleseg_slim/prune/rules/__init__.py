"""Channel rules, by subject. Importing this package registers them all."""

from paddleseg_slim.prune.rules import conv, elementwise, matmul, norm, reduce, shape, shuffle

__all__ = ["conv", "elementwise", "matmul", "norm", "reduce", "shape", "shuffle"]

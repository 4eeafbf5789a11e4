"""Latency measured so that it can be believed.

Every candidate (a model file in an engine) lives in its own process. They take turns in short blocks, so that what
the machine does meanwhile meets all of them alike, and ratios come from blocks of the same round.
"""

from __future__ import annotations

from paddleseg_slim.deploy.benchmark.measure import Candidate, measure
from paddleseg_slim.deploy.benchmark.result import BenchResult, Row, Settings, describe_comparison
from paddleseg_slim.deploy.benchmark.statistics import Comparison, compare

__all__ = ["BenchResult", "Candidate", "Comparison", "Row", "Settings", "compare", "describe_comparison", "measure"]

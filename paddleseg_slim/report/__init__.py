"""Tables, pictures and the page that show what a run reached."""

from __future__ import annotations

from paddleseg_slim.report.stage import Accuracy, Latency, Stage, file_sizes, find_stages, read_stage, write_stage

__all__ = ["Accuracy", "Latency", "Stage", "file_sizes", "find_stages", "read_stage", "write_stage"]

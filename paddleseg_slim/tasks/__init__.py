"""Tasks: the problems that models are trained and compressed for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paddleseg_slim.registry import TASKS

if TYPE_CHECKING:
    from paddleseg_slim.config import Config
    from paddleseg_slim.tasks.base import Task


def build_task(config: Config) -> Task:
    """Build the task that ``config.task`` names.

    Raises:
        UserError: no task has this name.
    """
    from paddleseg_slim.tasks import classification, segmentation  # noqa: F401  (they register; metrics import base)

    task: Task = TASKS.get(config.task)(config)
    return task

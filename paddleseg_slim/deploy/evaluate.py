"""An exported file as something that the trainer's own evaluation can measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleseg_slim.deploy.runtimes import Runtime
from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Forward


def runtime_forward(runtime: Runtime, num_classes: int) -> Forward:
    """Make a `Forward` of a loaded file.

    A file that ends in argmax gives class numbers; they become scores (1 for the class, 0 for the others), so that the
    same metric code counts them. A fixed batch is filled up with the last image, and what that gives is dropped.

    Raises:
        UserError: the model has several inputs, or class numbers that the task does not have.
    """
    if len(runtime.inputs) != 1:
        raise UserError(f"The model has {len(runtime.inputs)} inputs.", "Export a model that takes one image.")
    name, batch = runtime.inputs[0].name, fixed_batch(runtime)

    def forward(images: np.ndarray) -> Any:
        count = len(images)
        if batch is not None and count < batch:
            images = np.concatenate([images, np.repeat(images[-1:], batch - count, axis=0)])
        outputs = [output[:count] for output in runtime.run({name: images})]
        return [as_scores(outputs[0], num_classes), *outputs[1:]]

    return forward


def fixed_batch(runtime: Runtime) -> int | None:
    """The batch size that the file is exported for; None for any."""
    size = runtime.inputs[0].shape[0]
    return None if size == -1 else size


def as_scores(output: np.ndarray, num_classes: int) -> np.ndarray:
    """Class numbers ``[N, ...]`` as float32 ``[N, C, ...]``; scores as they are.

    Raises:
        UserError: a class number that is not one of the task's, or scores of another number of classes.
    """
    if not np.issubdtype(output.dtype, np.integer):
        if output.shape[1] != num_classes:
            raise UserError(
                f"The model gives scores of {output.shape[1]} classes, the task has {num_classes}.",
                "Evaluate with the config that the model was trained with.",
            )
        return output
    if output.size and (output.min() < 0 or output.max() >= num_classes):
        raise UserError(
            f"The model gives class {int(output.max())}, the task has {num_classes} classes.",
            "Evaluate with the config that the model was trained with.",
        )
    scores = np.zeros((output.shape[0], num_classes, *output.shape[1:]), np.float32)
    np.put_along_axis(scores, output[:, None].astype(np.int64), 1.0, axis=1)
    return scores

"""Refitting the layers of a pruned model by the prune command's flags: on which images, and what it brought."""

from __future__ import annotations

import argparse

import numpy as np

from paddleseg_slim.cli import runner
from paddleseg_slim.cli.prune import RECONSTRUCT_IMAGES
from paddleseg_slim.cli.subset import calibration_images
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune.reconstruct import reconstruct
from paddleseg_slim.prune.running import images_that_fit
from paddleseg_slim.tasks.base import Task
from paddleseg_slim.train.progress import share_done


def reconstruct_layers(args: argparse.Namespace, task: Task, model: GraphLayer, dense: GraphLayer) -> None:
    """Refit the layers of the pruned ``model`` on images of the training list, and say how near they come."""
    images = refit_images(args, task, dense)
    entry = model.record[-1]
    with share_done("[RECONSTRUCTION]") as progress:
        done = reconstruct(model, dense, images, entry["kept"], progress)
    entry["reconstruction"] = {"images": len(images), "layers": len(done)}
    if done:
        before, after = (float(np.mean([getattr(layer, when) for layer in done])) for when in ("before", "after"))
        text = "%d layers were refitted on %d images: mean error of their outputs %.3f, was %.3f."
        runner.log(text, len(done), len(images), after, before)


def refit_images_count(args: argparse.Namespace) -> int:
    """How many images of the training list layers are refitted on, at most."""
    return int(args.reconstruct_images or RECONSTRUCT_IMAGES)


def refit_images(args: argparse.Namespace, task: Task, dense: GraphLayer) -> list[np.ndarray]:
    """These images ``[1, 3, H, W]``, all of one size, as many as memory is set aside for."""
    chosen = calibration_images(task, refit_images_count(args), "train", args.seed)
    count = min(len(chosen), images_that_fit(dense, (1, *chosen[0]["img"].shape)))
    return of_one_size([chosen[index]["img"] for index in range(count)])


_SIDE = 32
"""What sizes are rounded down to where images differ: most models halve them five times."""


def of_one_size(images: list[np.ndarray]) -> list[np.ndarray]:
    """Images ``[3, H, W]`` as ``[1, 3, h, w]``: where they differ, the middles of those that are large enough.

    The size is one that three quarters of the heights and of the widths reach.
    """
    sizes = np.array([image.shape[1:] for image in images])
    if (sizes == sizes[0]).all():
        return [image[None] for image in images]
    height, width = (
        max(1, int(side) // _SIDE) * min(_SIDE, int(side)) for side in np.quantile(sizes, 0.25, axis=0, method="lower")
    )
    return [_middle(i, height, width)[None] for i in images if i.shape[1] >= height and i.shape[2] >= width]


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image ``[3, H, W]``."""
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]

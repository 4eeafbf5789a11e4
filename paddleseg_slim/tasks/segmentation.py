"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.config import build
from paddleseg_slim.metrics import SegmentationAccumulator
from paddleseg_slim.metrics.auc import AucAccumulator
from paddleseg_slim.models.external import resolve_model
from paddleseg_slim.registry import MODELS, TASKS
from paddleseg_slim.tasks.base import Accumulator, Batch, Forward
from paddleseg_slim.tasks.common import ConfiguredTask
from paddleseg_slim.tasks.inference import restore, wrap
from paddleseg_slim.tasks.layout import channels_last, transpose_around
from paddleseg_slim.tasks.prediction import MaskWriter
from paddleseg_slim.tasks.visual import blend, colour_map


def at_label_size(outputs: Any, batch: Mapping[str, Any]) -> Any:
    """The first output, brought back to the size of the label where ``batch["trans_info"]`` says that it changed."""
    first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    if tuple(first.shape[-2:]) == tuple(batch["label"].shape[-2:]):
        return first
    return restore(np.asarray(first), batch["trans_info"][0])


class RestoringAccumulator(SegmentationAccumulator):
    """Compares at the size of the label file."""

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add one batch."""
        super().update(at_label_size(outputs, batch), batch)


class RestoringAuc(AucAccumulator):
    """Compares at the size of the label file."""

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add one batch."""
        super().update(at_label_size(outputs, batch), batch)


@TASKS.register("segmentation")
class SegmentationTask(ConfiguredTask):
    """A PaddleSeg config: models of the registry, list-file or named datasets, mIoU."""

    name = "segmentation"
    primary = "mIoU"

    def build_model(self, data_format: str = "NCHW") -> paddle.nn.Layer:
        """Build the model of the section ``model``, for as many classes as the dataset has."""
        spec = self.config.model
        resolve_model(spec.type)  # registers one of an installed paddleseg
        if data_format == "NHWC":
            return transpose_around(build(channels_last(spec), MODELS, num_classes=self.num_classes()))
        return build(spec, MODELS, num_classes=self.num_classes())

    def input_spec(self, height: int | None = None, width: int | None = None, batch: int | None = None) -> list[Any]:
        """``img``, float32 ``[N, C, H, W]``."""
        return [paddle.static.InputSpec([batch, self.img_channels(), height, width], "float32", "img")]

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """The weighted losses of the section ``loss``."""
        return self._combined_loss()(outputs, batch["label"], batch.get("edge"))

    def accumulator(self) -> RestoringAccumulator:
        """An empty confusion matrix."""
        data = self._any_dataset()
        return RestoringAccumulator(self.num_classes(), self.class_names(), data.ignore_index)

    def accumulators(self, settings: Mapping[str, Any]) -> list[Accumulator]:
        """The confusion matrix, with ``auc_roc`` also the ROC curves."""
        if not settings.get("auc_roc"):
            return [self.accumulator()]
        ignore_index = self._any_dataset().ignore_index
        return [self.accumulator(), RestoringAuc(self.num_classes(), self.class_names(), ignore_index)]

    def inference(self, forward: Forward, settings: Mapping[str, Any]) -> Forward:
        """Sliding window, scales and flips of ``test_config`` (see `tasks.inference.wrap`)."""
        return wrap(forward, settings)

    def pictures(self, forward: Forward, count: int) -> dict[str, np.ndarray]:
        """For the first samples of the validation set: image, label and prediction side by side."""
        data, colours = self.val_dataset(), colour_map()
        result = {}
        for index in range(min(count, len(data))):
            sample = data[index]
            logits = self.restore(forward(sample["img"][None]), sample)
            image = restore(sample["img"][None], sample["trans_info"])[0].transpose(1, 2, 0)
            low, high = image.min(), image.max()
            picture = ((image - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
            picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
            label, predicted = sample["label"].astype(np.uint8), logits.argmax(1)[0].astype(np.uint8)
            parts = [picture, blend(picture, label, colours), blend(picture, predicted, colours)]
            result[f"Samples/{index}"] = np.concatenate(parts, axis=1)
        return result

    def restore(self, outputs: Any, sample: Mapping[str, Any]) -> np.ndarray:
        """The first output ``[1, C, H, W]`` at the size of the picture."""
        return restore(np.asarray(self.logits(outputs)), sample["trans_info"])

    def writer(self, folder: Path, names: Sequence[PurePath], custom_colour: Sequence[int] | None = None) -> MaskWriter:
        """Overlays and pseudo-colour masks."""
        return MaskWriter(folder, names, custom_colour)

    def logits(self, outputs: Any) -> Any:
        """The first output."""
        return outputs[0] if isinstance(outputs, (list, tuple)) else outputs

    def output_op(self) -> str:
        """``export.output_op`` of the config; a class for every pixel where it does not say."""
        return str(self.config.export.get("output_op", "argmax"))

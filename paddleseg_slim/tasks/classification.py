"""Image classification: a class for every image, with the models of ``paddle.vision``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import paddle

from paddleseg_slim.config.signature import check_arguments
from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.metrics import ClassificationAccumulator
from paddleseg_slim.registry import TASKS
from paddleseg_slim.tasks.base import Batch
from paddleseg_slim.tasks.common import ConfiguredTask
from paddleseg_slim.tasks.prediction import ClassWriter


@TASKS.register("classification")
class ClassificationTask(ConfiguredTask):
    """``task: classification``; the model's ``type`` is a name of ``paddle.vision.models`` (``resnet18``)."""

    name = "classification"
    primary = "Top-1"

    def build_model(self, data_format: str = "NCHW") -> paddle.nn.Layer:
        """Build the model of the section ``model``, for as many classes as the dataset has."""
        if data_format != "NCHW":
            raise UserError(
                f"--data_format {data_format}: the models of paddle.vision have NCHW only.", "Leave it out."
            )
        spec = self.config.model
        known = [name for name in paddle.vision.models.__all__ if name.islower()]
        if spec.type not in known:
            raise UserError(f"model.type: unknown classifier {spec.type!r}.", nearest(spec.type, known))
        factory = getattr(paddle.vision.models, spec.type)
        arguments = check_arguments(factory, spec.args, spec.key_path)
        return factory(**{**arguments, "num_classes": self.num_classes()})

    def input_spec(self, height: int | None = None, width: int | None = None, batch: int | None = None) -> list[Any]:
        """``img``, float32 ``[N, 3, H, W]``."""
        return [paddle.static.InputSpec([batch, 3, height, width], "float32", "img")]

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """The weighted losses of the section ``loss``."""
        return self._combined_loss()(outputs, batch["label"])

    def accumulator(self) -> ClassificationAccumulator:
        """Empty counts of Top-1 and Top-5."""
        return ClassificationAccumulator(self.num_classes(), self.class_names())

    def writer(
        self, folder: Path, names: Sequence[PurePath], custom_colour: Sequence[int] | None = None
    ) -> ClassWriter:
        """A table of classes."""
        return ClassWriter(folder, self.class_names(), custom_colour)

    def logits(self, outputs: Any) -> Any:
        """The first output."""
        return outputs[0] if isinstance(outputs, (list, tuple)) else outputs

    def output_op(self) -> str:
        """``export.output_op`` of the config; the scores where it does not say, of which Top-5 is counted."""
        return str(self.config.export.get("output_op", "none"))

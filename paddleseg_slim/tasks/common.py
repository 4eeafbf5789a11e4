"""What the tasks of a config share: their datasets, built once, and the facts that these imply."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from paddleseg_slim.config import ComponentSpec, Config, build
from paddleseg_slim.data import Compose
from paddleseg_slim.errors import UserError
from paddleseg_slim.losses import CombinedLoss, build_loss
from paddleseg_slim.registry import DATASETS, TRANSFORMS
from paddleseg_slim.tasks.base import Task

_LOG = logging.getLogger(__name__)


class ConfiguredTask(Task):
    """A task whose parts a `Config` names.

    Args:
        config: the config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._datasets: dict[str, Any] = {}
        self._loss: CombinedLoss | None = None

    def _dataset(self, section: str) -> Any:
        if section not in self._datasets:
            spec: ComponentSpec | None = getattr(self.config, section)
            if spec is None:
                raise UserError(f"The config has no section {section}.", f"Write '{section}:' with a 'type:' below it.")
            self._datasets[section] = self._checked(build(spec, DATASETS))
        return self._datasets[section]

    def train_dataset(self) -> Any:
        """The dataset of the section ``train_dataset``."""
        return self._dataset("train_dataset")

    def val_dataset(self) -> Any:
        """The dataset of the section ``val_dataset``."""
        return self._dataset("val_dataset")

    def test_dataset(self) -> Any:
        """The dataset of the section ``test_dataset``; that of ``val_dataset`` where there is none."""
        if self.config.test_dataset is None:
            _LOG.warning("The config has no test_dataset: val_dataset is used, by which the model was chosen.")
            return self.val_dataset()
        return self._dataset("test_dataset")

    def _any_dataset(self) -> Any:
        """The dataset to ask for class names and numbers: one that is there already, or the cheapest."""
        if self._datasets:
            return next(iter(self._datasets.values()))
        return self._dataset("val_dataset" if self.config.val_dataset else "train_dataset")

    def _checked(self, dataset: Any) -> Any:
        stated = self.config.model.args.get("num_classes")
        if stated is not None and stated != dataset.num_classes:
            raise UserError(
                f"model.num_classes is {stated}, but {type(dataset).__name__} has {dataset.num_classes} classes.",
                f"Set model.num_classes: {dataset.num_classes}, or leave it out.",
            )
        return dataset

    def num_classes(self) -> int:
        """Number of classes: what the section ``model`` states, or else the dataset's."""
        stated = self.config.model.args.get("num_classes") or self._declared("classes")
        return int(self._any_dataset().num_classes if stated is None else stated)

    def _declared(self, name: str) -> Any:
        """What the dataset's class says about itself, so that an export needs no data; None: it says nothing."""
        section = self.config.val_dataset or self.config.train_dataset
        return getattr(DATASETS.get(section.type), name, None) if section.type in DATASETS else None

    def img_channels(self) -> int:
        """Channels of an image."""
        return int(self.config.train_dataset.args.get("img_channels") or 3)

    def preprocess(self) -> Compose:
        """The transforms of the section ``val_dataset``; the dataset itself need not be there."""
        section = self.config.val_dataset
        if section is None:
            raise UserError("The config has no section val_dataset.", "Its transforms prepare the images: write one.")
        transforms = [build(spec, TRANSFORMS) for spec in section.args.get("transforms") or []]
        return Compose(transforms, img_channels=self.img_channels())

    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of their numbers."""
        return list(self._declared("names") or self._any_dataset().class_names)

    def _combined_loss(self) -> CombinedLoss:
        if self._loss is None:
            self._loss = build_loss(self.config.loss.to_dict(), getattr(self._any_dataset(), "ignore_index", None))
        return self._loss

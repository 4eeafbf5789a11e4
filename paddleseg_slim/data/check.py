"""The preflight of a dataset: what is wrong with its files and labels, said before any long work."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paddleseg_slim.data.base import VisionDataset
from paddleseg_slim.data.dataset import FileDataset
from paddleseg_slim.data.transforms.base import Sample
from paddleseg_slim.errors import UserError

_LOG = logging.getLogger(__name__)
_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        cause: what, with the file, the value and the counts.
        remedy: what to do about it.
        count: how many samples have it.
        indices: of these samples.
        unreadable: the samples have no data at all, so that leaving them out is an answer.
    """

    cause: str
    remedy: str
    count: int = 1
    indices: tuple[int, ...] = ()
    unreadable: bool = False


@dataclass
class Report:
    """What the preflight found.

    Attributes:
        name: of the dataset.
        total: samples that the dataset has.
        checked: samples that were opened.
        generated: what the samples are where code makes them (`VisionDataset.generated`); empty for files.
        problems: what has to be put right.
        warnings: what is worth knowing.
        pixels: how many pixels (for classification: samples) have each label.
        sizes: how many images have each size, ``(width, height)``.
    """

    name: str
    total: int
    checked: int
    generated: str = ""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pixels: dict[int, int] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def unreadable(self) -> list[int]:
        """Indices of the samples whose files are missing or damaged."""
        return sorted(index for problem in self.problems if problem.unreadable for index in problem.indices)

    def lines(self) -> list[str]:
        """The report in lines."""
        most = sorted(self.sizes.items(), key=lambda item: -item[1])[:3]
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in most)
        more = f" and {len(self.sizes) - 3} other sizes" if len(self.sizes) > 3 else ""
        looked = f"generated {self.generated} looked at" if self.generated else "samples opened"
        result = [f"{self.name}: {self.checked:,} of {self.total:,} {looked}; {sizes or 'no image'}{more}"]
        whole = sum(self.pixels.values())
        if whole:
            shares = ", ".join(f"{value}: {count / whole:.2%}" for value, count in sorted(self.pixels.items()))
            result.append(f"labels: {shares}")
        result += [f"warning: {text}" for text in self.warnings]
        for problem in self.problems[:_SHOWN]:
            result += [f"problem: {problem.cause}", f"         {problem.remedy}"]
        if len(self.problems) > _SHOWN:
            result.append(f"... and {len(self.problems) - _SHOWN} more problems")
        return result

    def raise_problems(self) -> None:
        """Raise the first problem.

        Raises:
            UserError: there is one.
        """
        if self.problems:
            rest = f" ({len(self.problems) - 1} more problems: run check-data)" if len(self.problems) > 1 else ""
            raise UserError(self.problems[0].cause + rest, self.problems[0].remedy)


@dataclass(frozen=True)
class _Seen:
    """What one sample showed."""

    index: int
    name: str = ""
    size: tuple[int, int] = (0, 0)
    values: dict[int, int] = field(default_factory=dict)
    error: UserError | None = None


def _look(dataset: VisionDataset, index: int) -> _Seen:
    try:
        sample: Sample = dataset.read(index)
    except UserError as error:
        return _Seen(index, error=error)
    height, width = sample["img"].shape[:2]
    values: dict[int, int] = {}
    if "label" in sample:
        found, counts = np.unique(sample["label"], return_counts=True)
        values = dict(zip(found.tolist(), counts.tolist()))
    name = dataset.file_list[index][1] if isinstance(dataset, FileDataset) else sample.get("name")
    return _Seen(index, str(name), (width, height), values)


def _look_at_all(dataset: VisionDataset, indices: list[int], num_workers: int) -> Iterator[_Seen]:
    start = last = time.monotonic()
    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        for number, seen in enumerate(pool.map(lambda index: _look(dataset, index), indices), start=1):
            yield seen
            now = time.monotonic()
            if now - last > 10:
                last = now
                eta = (now - start) / number * (len(indices) - number)
                _LOG.info("Checking data: %d of %d samples, ETA %.0f s", number, len(indices), eta)


def _missing(dataset: VisionDataset, opened: Iterable[int]) -> Iterator[Problem]:
    """Listed files that do not exist, among the samples that are not opened."""
    pairs = dataset.file_list if isinstance(dataset, FileDataset) else []
    for index in sorted(set(range(len(pairs))) - set(opened)):
        for path in pairs[index]:
            if path is not None and not os.path.isfile(path):
                yield Problem(
                    f"The listed file {path} does not exist.",
                    "Correct the list file, or leave such samples out with --skip_bad.",
                    indices=(index,),
                    unreadable=True,
                )
                break


def label_hint(values: Iterable[int], num_classes: int, ignore_index: int) -> str:
    """Say what labels that are no class numbers probably are, and what to do about it.

    Args:
        values: all label values of the data, the ignored one included.
        num_classes: classes of the dataset.
        ignore_index: the ignored value.
    """
    found = set(values)
    classes = found - {ignore_index}
    if found <= {0, 255}:
        return "Is this a 0/255 mask? Write label_map: {255: 1} into the dataset's section (and num_classes: 2)."
    if classes and min(classes) == 1 and max(classes) == num_classes:
        return (
            "Do the labels count from 1? Write label_map: {1: 0, 2: 1, ...} into the dataset's section, "
            "or rewrite the files to count from 0."
        )
    if len(classes) > 2 and max(classes) > 2 * len(classes):
        return (
            "Are these the grey levels of a colour mask? Convert the colours to class numbers 0, 1, 2, ... "
            "(a palette PNG holds both)."
        )
    return f"Set num_classes to at least {max(classes, default=0) + 1}, or correct the labels with label_map."


def _label_problems(dataset: VisionDataset, seen: list[_Seen], pixels: Counter[int]) -> list[Problem]:
    allowed = set(range(dataset.num_classes)) | {dataset.ignore_index}
    wrong = sorted(value for value in pixels if value not in allowed)
    labelled = [look for look in seen if look.values]
    hint = label_hint(pixels, dataset.num_classes, dataset.ignore_index)
    if wrong:
        bad = [look for look in labelled if not allowed.issuperset(look.values)]
        counts = ", ".join(f"{value} ({pixels[value]} pixels)" for value in wrong[:8])
        more = f" and {len(wrong) - 8} other values" if len(wrong) > 8 else ""
        cause = (
            f"{len(bad)} of {len(labelled)} labels hold values that are no class of {dataset.num_classes} and not the "
            f"ignored {dataset.ignore_index}: {counts}{more}; the first is of {bad[0].name}."
        )
        return [Problem(cause, hint, len(bad), tuple(look.index for look in bad))]
    if labelled and not set(pixels) - {dataset.ignore_index}:
        cause = f"All {len(labelled)} labels are the ignored value {dataset.ignore_index} everywhere."
        return [Problem(cause, "Check ignore_index and the label files.", len(labelled))]
    if set(pixels) == {0, 255} and dataset.ignore_index == 255 and dataset.num_classes == 2 and len(labelled) > 1:
        cause = f"All {len(labelled)} labels hold 0 and the ignored value 255 only, so there is one class to learn."
        return [Problem(cause, hint, len(labelled))]
    return []


def _warnings(dataset: VisionDataset, seen: list[_Seen], pixels: Counter[int], partial: bool) -> Iterator[str]:
    empty = [look for look in seen if look.values and set(look.values) == {dataset.ignore_index}]
    if empty:
        yield f"{len(empty)} labels are the ignored value everywhere, the first is of {empty[0].name}."
    absent = [number for number in range(dataset.num_classes) if pixels and number not in pixels]
    if absent:
        names = ", ".join(f"{number} ({dataset.class_names[number]})" for number in absent[:10])
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        where = "in the samples opened" if partial else "in the data"
        yield f"{len(absent)} of {dataset.num_classes} classes are absent {where}: {names}{more}."


def check_dataset(
    dataset: VisionDataset,
    *,
    max_files: int | None = None,
    max_generated: int | None = None,
    num_classes: int | None = None,
    num_workers: int = 2,
) -> Report:
    """Open the samples of a dataset and report what is wrong with them.

    Args:
        dataset: what to check; its transforms do not run.
        max_files: open so many samples, evenly spread, and of the others only look whether the files exist.
        max_generated: the same of samples that code makes, where ``max_files`` is None.
        num_classes: of the model, to compare with.
        num_workers: threads that read.
    """
    total = len(dataset)
    most = max_generated if dataset.generated and max_files is None else max_files
    count = total if most is None else min(max(most, 1), total)
    indices = sorted({place * total // count for place in range(count)})
    seen = list(_look_at_all(dataset, indices, num_workers))
    report = Report(f"{type(dataset).__name__} ({dataset.mode})", total, len(indices), dataset.generated)
    if num_classes is not None and num_classes != dataset.num_classes:
        report.problems.append(
            Problem(
                f"The model has {num_classes} classes, the dataset {report.name} {dataset.num_classes}.",
                "Set both to the same num_classes.",
            )
        )
    for look in seen:
        if look.error is not None:
            report.problems.append(
                Problem(look.error.cause, look.error.remedy, indices=(look.index,), unreadable=True),
            )
    report.problems += _missing(dataset, indices)
    good = [look for look in seen if look.error is None]
    pixels: Counter[int] = Counter()
    for look in good:
        pixels.update(look.values)
    report.problems += _label_problems(dataset, good, pixels)
    report.warnings += _warnings(dataset, good, pixels, partial=len(indices) < total)
    report.pixels = dict(sorted(pixels.items()))
    report.sizes = dict(Counter(look.size for look in good))
    return report


def preflight(
    dataset: Any, *, max_files: int | None = 200, num_classes: int | None = None, skip_bad: bool = False
) -> Report:
    """Check a dataset before it is used, and log what is worth knowing.

    Args:
        dataset: see `check_dataset`; with ``skip_bad``, samples that cannot be read are taken out of it.
        max_files: see `check_dataset`.
        num_classes: of the model.
        skip_bad: leave unreadable samples out and count them, instead of raising. All files of a list are opened then.

    Raises:
        UserError: something is wrong, or no sample is left.
    """
    whole = skip_bad and isinstance(dataset, FileDataset)
    report = check_dataset(dataset, max_files=None if whole else max_files, num_classes=num_classes)
    bad = report.unreadable
    if skip_bad and bad and isinstance(dataset, FileDataset):
        if len(bad) == report.total:
            raise UserError(
                f"None of the {report.total} samples of {report.name} can be read; the first: "
                f"{report.problems[0].cause}",
                report.problems[0].remedy,
            )
        dataset.drop(bad)
        report.problems = [problem for problem in report.problems if not problem.unreadable]
        report.warnings.append(f"{len(bad)} of {report.total} samples cannot be read and are left out.")
    for text in report.warnings:
        _LOG.warning("%s: %s", report.name, text)
    report.raise_problems()
    return report

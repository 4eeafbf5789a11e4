"""Check the data of a config before training on it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from paddleseg_slim.cli import arguments, runner
from paddleseg_slim.errors import UserError

HELP = "check the data of a config: files, sizes, labels, classes"

_PARTS = ("train", "val", "test")
_GENERATED = 500
"""Samples that are looked at of a set that code makes: no file of it can be damaged, and each one takes its time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to check."""
    arguments.add_config(parser)
    parser.add_argument("--dataset", choices=_PARTS, help="section to check; default: all that the config has")
    parser.add_argument("--max_files", type=int, metavar="N", help=f"open so many samples of each, evenly spread; "
                        f"default: all, {_GENERATED} where they are generated")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="look at all generated samples, too")
    parser.add_argument("--skip_bad", "--skip-bad", action="store_true", help="count unreadable samples, go on without")
    parser.add_argument("--num_workers", type=int, default=2, metavar="N", help="threads that read")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Check; exit code 2 if something is wrong."""
    arguments.at_least(args, max_files=1, num_workers=1)
    if args.all and args.max_files is not None:
        raise UserError("--all and --max_files are both given.", "Give one of them.")
    from paddleseg_slim import config as configs
    from paddleseg_slim.data.check import Report, check_dataset
    from paddleseg_slim.files import write_json
    from paddleseg_slim.registry import DATASETS
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    config = configs.load_config(args.config, args.opts)
    reports: list[Report] = []
    for part in (args.dataset,) if args.dataset else _PARTS:
        spec = getattr(config, f"{part}_dataset")
        if spec is None:
            if args.dataset:
                raise UserError(f"The config has no section {part}_dataset.", "Check another, or add it.")
            continue
        dataset = configs.build(spec, DATASETS)
        report = check_dataset(
            dataset,
            max_files=args.max_files,
            max_generated=None if args.all else _GENERATED,
            num_classes=config.model.args.get("num_classes"),
            num_workers=args.num_workers,
        )
        if args.skip_bad and 0 < len(report.unreadable) < report.total:
            report.warnings.append(f"{len(report.unreadable)} of {report.total} samples cannot be read.")
            report.problems = [problem for problem in report.problems if not problem.unreadable]
        reports.append(report)
        for line in report.lines():
            runner.log("%s", line)
    if args.json:
        write_json(args.json, [_plain(report) for report in reports])
    for report in reports:
        report.raise_problems()
    runner.log("No problem found.")
    return 0


def _plain(report: object) -> dict[str, object]:
    data = asdict(report)  # type: ignore[call-overload]
    data["sizes"] = [{"width": w, "height": h, "count": count} for (w, h), count in data["sizes"].items()]
    return dict(data)

"""``paddleseg-slim report``: one page that shows what a run reached."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from rich.console import Console

from paddleseg_slim.cli import arguments, runner
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_text
from paddleseg_slim.version import __version__

HELP = "write one self-contained HTML page (and Markdown) of what a run reached"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folders of runs; each stage in them is shown")
    parser.add_argument("--save_path", "--output", default=None, help="the page (default: RUN_DIR/report.html)")
    parser.add_argument("--title", default="Compression report", help="title of the page")
    parser.add_argument("--open", action="store_true", help="show the page in the browser when it is written")


def run(args: argparse.Namespace) -> int:
    """Write the page and its Markdown, and print the table."""
    first = Path(args.run_dirs[0])
    page = Path(args.save_path) if args.save_path else (first if first.is_dir() else first.parent) / "report.html"
    _check_page(page)
    from paddleseg_slim.report.stage import find_stages
    from paddleseg_slim.report.summary import summarize, unplaced_times
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    summary = summarize(find_stages(args.run_dirs))
    for sentence in unplaced_times(summary):
        runner.log("%s", sentence)
    from paddleseg_slim.report import html, markdown
    from paddleseg_slim.report.headline import Headline
    from paddleseg_slim.report.tables import explanation, stage_tables

    arguments.check_folder(str(page.parent), "--save_path")
    footer = f"Made by paddleseg_slim {__version__}."
    text = html.render(summary, args.title, footer)
    write_text(page, text)
    write_text(page.with_suffix(".md"), markdown.render(summary, args.title, footer))
    console = Console()
    for table in stage_tables(summary, console.width):
        console.print(table)
    told = explanation(summary)
    if told:
        console.print(told, style="dim", markup=False)
    headline = Headline.of(summary).sentence
    if headline:
        console.print(headline, style="bold", markup=False)
    console.print(f"Report: {page}  ({page.with_suffix('.md').name} beside it)", markup=False, highlight=False)
    if args.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def _check_page(page: Path) -> None:
    if page.is_dir():
        raise UserError(f"{page} is a folder.", "Give the file that the page goes to: --save_path FOLDER/report.html.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"--save_path {page} does not end in .html or .htm.",
            "Give it that end: the Markdown goes beside it, as .md.",
        )
    if page.with_suffix(".md").is_dir():
        raise UserError(
            f"{page.with_suffix('.md')}, where the Markdown goes, is a folder.", "Give another --save_path."
        )

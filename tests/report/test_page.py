from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report.runs import latency, make_run

from paddleseg_slim.cli import runner
from paddleseg_slim.errors import UserError
from paddleseg_slim.report import Stage, find_stages, html, markdown, pictures, write_stage
from paddleseg_slim.report.samples import sample_tiles, save_sample
from paddleseg_slim.report.summary import summarize

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VOID = ("meta", "img", "link", "br")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run) -> str:
    return html.render(summarize(find_stages([run])), "Report of a test", "The end.")


class Checker(HTMLParser):
    """Collects what a page loads, its images, and tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.faults: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_else(page):
    checker = Checker()
    checker.feed(page)
    assert checker.faults == [] and checker.open == []
    assert len(checker.sources) > 20
    assert all(source.startswith("data:image/") for source in checker.sources)
    outside = re.sub(r'src="data:[^"]*"', "", page)
    assert "http://" not in outside and "https://" not in outside
    assert "<script" not in outside
    text = " ".join(checker.text)
    assert text.count("What was removed") == 1 and "head.cls" in text and "2 of 3 channel groups lost channels" in text
    for wanted in ("1.90x [1.85, 1.95]", "no difference [0.96, 1.06]", "python slim/prune.py --config ...", "trousers"):
        assert wanted in text
    assert re.search(r"\d\.\d\d % of pixels changed", text)


def test_drawings_are_the_same_every_time(run):
    summary = summarize(find_stages([run]))
    assert pictures.pareto(summary) == pictures.pareto(summary)


def test_what_stages_say_is_escaped(tmp_path):
    write_stage(tmp_path, Stage("<b>x</b>", "train", "run <script>alert(1)</script> & $title", notes=("<i>",)))
    text = html.render(summarize(find_stages([tmp_path])), "a & <b>", "<f>")
    assert "<script>" not in text and "<b>x" not in text and "<i>" not in text
    assert "run &lt;script&gt;alert(1)&lt;/script&gt; &amp; $title" in text
    assert "<title>a &amp; &lt;b&gt;</title>" in text


def test_markdown_holds_the_same_numbers(run):
    text = markdown.render(summarize(find_stages([run])), "Title", "The end.")
    assert text.startswith("# Title\n\ndense → int8: 1.90x faster")
    assert "| int8 (quant of pruned) | 0.6731 (-0.81 points) |" in text
    assert "python slim/post_quant.py" in text


def test_samples_that_cannot_be_shown_are_named(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(UserError, match="does not exist"):
        sample_tiles(tmp_path / "no.npz")
    save_sample(tmp_path / "size.npz", image, np.zeros((4, 5), np.uint8))
    np.savez(tmp_path / "empty.npz", other=image)
    np.savez(tmp_path / "objects.npz", image=np.array([{}], object), after=image)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    for name in ("size.npz", "empty.npz", "objects.npz", "broken.npz", "broken.png"):
        with pytest.raises(UserError, match=f"{name} cannot be shown"):
            sample_tiles(tmp_path / name)


def test_tiles_of_a_large_image_and_of_a_classifier(tmp_path):
    from io import BytesIO

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (64, 1000, 3), dtype=np.uint8)
    classes = np.zeros((64, 1000), np.uint8)
    changed = classes.copy()
    changed[:, :100] = 1
    save_sample(tmp_path / "a.npz", image, changed, classes)
    tiles = sample_tiles(tmp_path / "a.npz")
    assert [tile.caption for tile in tiles] == ["image", "before", "after", "10.00 % of pixels changed"]
    assert {Image.open(BytesIO(tile.data)).size for tile in tiles} == {(480, 31)}
    save_sample(tmp_path / "b.npz", image, np.array(3), np.array(2), np.array(3))
    assert [tile.caption for tile in sample_tiles(tmp_path / "b.npz")] == ["truth: 3, before: 2, after: 3"]


def command(*arguments: str) -> subprocess.CompletedProcess:
    code = "import sys; from paddleseg_slim.cli.runner import main; sys.exit(main('report', sys.argv[1:]))"
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=root)


def test_the_command_writes_page_and_markdown(run, tmp_path):
    done = command(str(run), "--save_path", str(tmp_path / "out" / "page.html"), "--title", "My run")
    assert done.returncode == 0, done.stderr
    assert "1.90x faster in ONNX Runtime" in done.stdout
    assert "<title>My run</title>" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "page.md").read_text(encoding="utf-8").startswith("# My run")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["page.html", "page.md"]


def test_the_command_refuses_a_folder_without_stages(tmp_path):
    done = command(str(tmp_path))
    assert done.returncode == 2
    assert "holds no stage.json" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_which_times_are_of_no_stage(tmp_path, capsys):
    make_run(tmp_path)
    write_stage(tmp_path / "more", Stage("more", "bench", "x", latency=(latency("mine", "openvino", 2.0, 4.0),)))
    assert runner.main("report", [str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("The times of mine are left out: no stage has this name") == 1
    assert "The times of mine are left out" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("page.md", "page.md does not end in .html"),
        ("folder", "folder is a folder"),
        ("folder.html", "folder.html is a folder"),
        ("taken.html", "taken.md, where the Markdown goes, is a folder"),
        ("file/page.html", "file cannot be written"),
    ],
)
def test_the_command_refuses_where_no_page_can_be(run, tmp_path, capsys, target, cause):
    for name in ("folder", "folder.html", "taken.md"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    assert runner.main("report", [str(run), "--save_path", str(tmp_path / target)]) == 2
    assert cause in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_the_whole_page_without_sideways_scrolling(page, tmp_path, width):
    probe = (
        "<script>window.onload = () => { document.body.dataset.probe = JSON.stringify({"
        "page: document.documentElement.scrollWidth, window: window.innerWidth, "
        "images: document.images.length, "
        "broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        "}); }</script></body>"
    )
    file = tmp_path / "page.html"
    policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # or the probe may not run
    file.write_text(policy.replace("</body>", probe), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, *BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
         "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'data-probe="\{(.*?)\}"', done.stdout)
    assert found, done.stderr[-500:]
    values = dict(re.findall(r"&quot;(\w+)&quot;:(\d+)", found.group(1)))
    assert int(values["images"]) > 20 and values["broken"] == "0"
    assert int(values["page"]) <= int(values["window"])

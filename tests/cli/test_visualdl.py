"""What ``train.py --use_vdl`` logs, in the VisualDL server and a real browser."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tiny import environment, run, write_config

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1400,1200"),
    "--virtual-time-budget=20000",
)
STARTS_WITHIN_SECONDS = 60

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a VisualDL server that shows a run of four steps."""
    pytest.importorskip("visualdl")
    folder = tmp_path_factory.mktemp("vdl")
    config = write_config(folder)
    flags = ("--iters", 4, "--save_interval", 2, "--log_iters", 1, "--threads", 1, "--do_eval", "--use_vdl")
    done = run("train.py", "--config", config, *flags, "--save_dir", folder / "my_run")
    assert done.returncode == 0, done.stderr
    address = f"http://127.0.0.1:{_free_port()}"
    start = "import sys; from visualdl.server.app import main; sys.exit(main())"
    arguments = ["--logdir", str(folder / "my_run"), "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1]]
    process = subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        while not _answers(f"{address}/app/api/runs") and time.monotonic() < deadline:
            time.sleep(0.2)
        yield address
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.kill()
        process.wait()


def _page(address: str, profile: Path) -> str:
    """The page as the browser has it once its scripts ran."""
    done = subprocess.run(
        [str(BROWSER), *BROWSER_FLAGS, f"--user-data-dir={profile}", "--dump-dom", address],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    return done.stdout


def test_the_server_shows_curves_and_pictures_in_a_browser(server: str, tmp_path: Path) -> None:
    curves = _page(f"{server}/app/scalar", tmp_path / "a")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", curves))
    assert "Evaluate 4" in text  # mIoU, Acc, Kappa, Dice
    assert re.search(r"Train [5-9]", text)  # loss, its parts, lr, batch_cost, reader_cost
    assert "my_run" in text
    assert curves.count("<canvas") + curves.count("<svg") >= 4
    pictures = _page(f"{server}/app/sample/image", tmp_path / "b")
    assert "Samples" in pictures
    assert len(re.findall(r"<img[^>]+src=\"(?:blob:|data:|[^\"]*api/image)", pictures)) >= 4

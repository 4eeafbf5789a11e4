"""The server in examples/serving on loopback: masks equal Python's, requests are batched, two workers share them."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from tiny import ROOT, environment

from paddleseg_slim.deploy.export import export
from paddleseg_slim.deploy.infer import Predictor
from paddleseg_slim.deploy.prepare import add_onnx
from paddleseg_slim.deploy.runtimes import RuntimeOptions

NEEDED = ("litserve", "multipart")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in NEEDED), reason="pip install 'paddleseg_slim[serve]'"
    ),
    pytest.mark.skipif(sys.platform == "win32", reason="a process there has no SIGINT of its own"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    paddle.seed(3)
    net = nn.Sequential(nn.Conv2D(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2D(8, 5, 3, padding=1))
    result = export(
        *(net, folder),
        logits=lambda outputs: outputs,
        transforms=[{"type": "Normalize", "mean": [0.5], "std": [0.5]}],
        class_names=list("abcde"),
    )
    add_onnx(folder, result.layer)
    return folder


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    line = [sys.executable, str(ROOT / "examples/serving/app.py"), str(model), "--port", str(port), "--workers", "2"]
    with open(log, "w", encoding="utf-8") as stream:
        server = subprocess.Popen(
            [*line, "--batch_timeout", "0.3"],
            stdout=stream,
            stderr=stream,
            env={**environment(), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:  # nobody listens yet, or 503: not all workers are ready
            time.sleep(0.3)
    pytest.fail(log.read_text(encoding="utf-8")[-2000:])


def post(address: str, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """POST a form with one file as curl -F would."""
    head = b'--line\r\nContent-Disposition: form-data; name="request"; filename="a.png"\r\n\r\n'
    body = head + data + b"\r\n--line--\r\n"
    request = urllib.request.Request(
        f"{address}/predict", body, {"Content-Type": "multipart/form-data; boundary=line"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    rough = [generator.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(12)]
    sizes = [(64, 48) if index % 4 else (40, 56) for index in range(12)]
    return [cv2.resize(item, size) for item, size in zip(rough, sizes)]


def test_masks_batches_and_workers(address: str, model: Path) -> None:
    def ask(picture: np.ndarray) -> tuple[int, dict[str, str], bytes]:
        return post(address, cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, pictures()))
    predictor = Predictor(model, "onnxruntime", RuntimeOptions(threads=1))
    for (status, headers, body), expected in zip(answers, predictor.predict(pictures())):
        assert status == 200 and headers["content-type"] == "image/png"
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED), expected)
    assert max(int(headers["x-batch"]) for _, headers, _ in answers) > 1
    assert len({headers["x-worker"] for _, headers, _ in answers}) == 2


def test_no_picture_is_the_client_s_error_and_the_server_goes_on(address: str) -> None:
    status, _, body = post(address, b"no picture")
    assert status == 400 and b"PNG or JPEG" in body
    with urllib.request.urlopen(f"{address}/info", timeout=30) as answer:
        info: dict[str, Any] = json.load(answer)
    assert info["model"]["classes"] == list("abcde") and info["server"]["workers_per_device"] == 2

"""Downloads: checked, resumed where they stopped, unpacked without trusting the archive, complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

from paddleseg_slim.data.archive import is_archive, unpack
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import sha256, write_text

_LOG = logging.getLogger(__name__)
_BLOCK = 1 << 20
_TIMEOUT_S = 30
_ATTEMPTS = 3
WEIGHTS = (".pdparams", ".safetensors")


def home() -> Path:
    """Where downloads are kept: ``$SEG_HOME``, or ``~/.paddleseg`` as in PaddleSeg."""
    return Path(os.environ.get("SEG_HOME") or Path.home() / ".paddleseg")


def data_home() -> Path:
    """Where downloaded datasets are kept."""
    return home() / "dataset"


def is_url(text: str) -> bool:
    """Whether ``text`` is an http or https address."""
    return text.startswith(("http://", "https://"))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``: of several processes (ranks) one downloads, the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        if os.name == "nt":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
                    break
                except OSError:  # it gives up after ten seconds
                    continue
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _digest(path: Path, checksum: str) -> str:
    kind = checksum.partition(":")[0]
    digest = hashlib.new(kind)
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


class _Progress:
    """Logs how far a download is, every ten seconds."""

    def __init__(self, name: str, done: int, total: int | None) -> None:
        self._name, self._start, self._first, self._total = name, time.monotonic(), done, total
        self._last = self._start

    def step(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < 10:
            return
        self._last = now
        rate = max(done - self._first, 1) / (now - self._start)
        rest = f" of {self._total / 1e6:.0f} MB, ETA {(self._total - done) / rate:.0f} s" if self._total else " MB"
        _LOG.info("Downloading %s: %.0f%s", self._name, done / 1e6, rest)


def _open(url: str, part: Path, tag: Path) -> tuple[Any, bool]:
    """Open ``url``, at the end of ``part`` if the server has the same file still; return the response and that."""
    request = urllib.request.Request(url, headers={"User-Agent": "paddleseg_slim"})
    if part.exists() and part.stat().st_size and tag.exists():
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    return response, response.status == 206


def _receive(url: str, part: Path, tag: Path) -> None:
    """Receive ``url`` into ``part``; what an interrupted attempt left there is continued.

    Raises:
        OSError: the connection broke, also when the file is shorter than announced.
    """
    response, continues = _open(url, part, tag)
    with response:
        if not continues:
            part.unlink(missing_ok=True)
            version = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if version and not version.startswith("W/"):
                write_text(tag, version)
            else:
                tag.unlink(missing_ok=True)
        done = part.stat().st_size if continues else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        progress = _Progress(part.stem, done, total)
        with open(part, "ab" if continues else "wb") as stream:
            for block in iter(lambda: response.read(_BLOCK), b""):
                stream.write(block)
                done += len(block)
                progress.step(done)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and done != total:
        raise ConnectionError(f"got {done} of {total} bytes")


def _receive_with_retries(url: str, part: Path, tag: Path, target: Path) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _receive(url, part, tag)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # there is nothing beyond what is here: the file changed or is complete
                part.unlink(missing_ok=True)
                tag.unlink(missing_ok=True)
            if error.code in (416, 429, 500, 502, 503, 504) and attempt < _ATTEMPTS:
                continue
            raise UserError(
                f"{url} cannot be downloaded: the server answers {error.code} {error.reason}.",
                f"Check the address, or put the file at {target} yourself.",
            ) from error
        except OSError as error:
            if attempt < _ATTEMPTS:
                _LOG.info("Download of %s broke off (%s); trying again.", url, error)
                time.sleep(attempt)
                continue
            reason = getattr(error, "reason", error)
            raise UserError(
                f"{url} cannot be downloaded: {reason}.",
                f"Check the network and proxy, or put the file at {target} yourself; a new start resumes.",
            ) from error


def fetch(url: str, cache_dir: str | os.PathLike[str], checksum: str | None = None, name: str | None = None) -> Path:
    """Download a file, unless it is there already.

    An interrupted download goes on where it stopped; the file has its name only when it is complete and checked. Of
    several processes one downloads and the others wait.

    Args:
        url: http or https.
        cache_dir: folder of the file.
        checksum: ``sha256:...``, ``sha1:...`` or ``md5:...``; None when none is known.
        name: of the file; the last part of the address when None.

    Raises:
        UserError: no connection, an error of the server, or a wrong checksum.
    """
    if not is_url(url):
        raise UserError(f"{url!r} is no address to download from.", "Give an http or https address.")
    name = name or PurePosixPath(unquote(urlparse(url).path)).name
    if not name or name in (".", "..") or any(mark in name for mark in '\\/:*?"<>|'):
        raise UserError(f"{url} does not end in the name of a file.", "Give the address of a file.")
    target = Path(cache_dir) / name
    if target.is_file():
        return target
    part, tag = target.with_name(name + ".part"), target.with_name(name + ".part.tag")
    with _alone(target.with_name(name + ".lock")):
        if target.is_file():  # another process was faster
            return target
        _LOG.info("Downloading %s to %s", url, target)
        _receive_with_retries(url, part, tag, target)
        found = _digest(part, checksum or "sha256:")
        if checksum and found != checksum.lower():
            part.unlink()
            tag.unlink(missing_ok=True)
            raise UserError(
                f"{url} has the checksum {found}, not {checksum}.",
                f"The download is damaged or the file changed: try again, or put the right file at {target}.",
            )
        _LOG.info("Downloaded %s (%d bytes, %s)", name, part.stat().st_size, found)
        os.replace(part, target)
        tag.unlink(missing_ok=True)
    return target


def fetch_folder(url: str, folder: str | os.PathLike[str], checksum: str | None = None) -> Path:
    """Download an archive and unpack it as ``folder``, unless the folder is there; the archive is removed.

    Raises:
        UserError: see `fetch` and `archive.unpack`.
    """
    target = Path(folder)
    if target.is_dir():
        return target
    if target.exists():
        raise UserError(f"{target} is a file, not a folder.", "Remove it or give another dataset_root.")
    archive = fetch(url, target.parent, checksum)
    with _alone(target.with_name(target.name + ".lock")):
        if not target.is_dir():
            unpack(archive, target)
            archive.unlink()
    return target


def fetch_weights(source: str) -> Path:
    """Return the local file of weights that ``source`` means.

    Args:
        source: path or address of a ``.pdparams`` or ``.safetensors`` file, or of an archive (tar, zip) that holds
            one. Downloads and unpacked archives are kept below `home`.

    Raises:
        UserError: it cannot be downloaded or unpacked, or an archive holds no or several files of weights.
    """
    cache = home() / "pretrained_model"
    if is_url(source):
        # different models have the same file name at different addresses
        cache = cache / hashlib.sha256(source.encode("utf-8")).hexdigest()[:16]
        local = fetch(source, cache)
    else:
        local = Path(source)
        if not local.is_file():
            raise UserError(f"The file {local} does not exist.", f"Give {' or '.join(WEIGHTS)}, or an archive of one.")
    if local.suffix in WEIGHTS or not is_archive(local):
        return local
    folder = home() / "pretrained_model" / sha256(local)[:16] / "unpacked"
    with _alone(folder.with_name("unpacked.lock")):
        if not folder.is_dir():
            unpack(local, folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS)
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5]) or "none"
        raise UserError(
            f"{source} holds {len(found)} files of weights ({names}).", "Unpack it and give the one to use."
        )
    return found[0]

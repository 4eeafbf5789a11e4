"""Files that are complete or absent: everything this package writes goes through here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_OLD = ".replaced-by-slim"  # a name that nobody else gives to a folder
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp(\..+)?")
"""Names of temporary files and folders as `atomic_file`, `atomic_folder` and the export make them."""


def _umask() -> int:
    umask = os.umask(0)  # it can only be asked for by setting it
    os.umask(umask)
    return umask


def _allow(path: str | os.PathLike[str], mode: int) -> None:
    """Add ``mode`` to the permissions of ``path``."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | mode)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends without an error it takes the name ``path``.

    The content is on disk (fsync) before the name is. On an error the temporary file is removed and whatever stood
    at ``path`` stays as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=f".tmp{target.suffix}", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        _allow(temporary, 0o666 & ~_umask())  # mkstemp made it readable by its owner alone
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; when the block ends without an error it takes the name ``path``.

    A folder that stood there is replaced. Between the two renames a kill can leave the old folder under the name
    ``.<name>.replaced-by-slim``; :func:`recover_folder` puts it back.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    old = target.with_name(f".{target.name}{_OLD}")
    try:
        yield temporary
        umask = _umask()
        for folder, _, names in os.walk(temporary):
            for name in names:
                file = os.path.join(folder, name)
                with open(file, "rb+") as stream:
                    os.fsync(stream.fileno())
                _allow(file, 0o666 & ~umask)  # safetensors makes its files readable by their owner alone
            _allow(folder, 0o777 & ~umask)  # as mkdtemp does
            _sync_folder(Path(folder))
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(temporary, target)
        _sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: str | os.PathLike[str]) -> None:
    """Undo a replacement of the folder ``path`` that was killed between its two renames (see `atomic_folder`)."""
    target = Path(path)
    old = target.with_name(f".{target.name}{_OLD}")
    if old.exists() and not target.exists():
        os.replace(old, target)


def remove_leftovers(folder: str | os.PathLike[str], busy: Collection[Path] = ()) -> None:
    """Remove what killed processes have half written in ``folder`` and below, and undo half replacements.

    Nothing may be writing there meanwhile, but in the folders ``busy`` below it, which are left alone.
    """
    for path in sorted(Path(folder).rglob(".*")):
        if any(other in path.parents for other in busy):
            continue
        if _LEFTOVER.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
        elif path.name.endswith(_OLD) and path.is_dir():
            recover_folder(path.with_name(path.name[1 : -len(_OLD)]))
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write ``data`` as indented UTF-8 JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with Unix line ends, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

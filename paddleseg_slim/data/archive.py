"""Unpack a tar or zip archive from outside: no path leads out of the folder, no links, no bombs."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Callable

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_folder

_MAX_FILES = 2_000_000
_MAX_RATIO = 200
_BLOCK = 1 << 20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted zip
)


@dataclass(frozen=True)
class _Member:
    """A file in an archive: its path, its size as the archive says, how to open it, and whether it is a plain file."""

    path: str
    size: int
    open: Callable[[], IO[bytes] | None]
    is_plain: bool


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a tar (also compressed) or a zip archive, by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """Open an archive and list its files; folders are left out.

    Raises:
        UserError: it is no tar or zip archive, or it is damaged.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as box:
                yield [_zip_member(box, info) for info in box.infolist() if not info.is_dir()]
        else:
            with tarfile.open(archive) as tape:
                members = [_tar_member(tape, info) for info in tape if not info.isdir()]
                while tape.fileobj is not None and tape.fileobj.read(_BLOCK):
                    pass  # to the end, where compressed archives have their checksum
                yield members
    except _DAMAGE as error:
        raise UserError(f"{archive} cannot be unpacked: {error}.", "Remove the file and download it again.") from error


def _zip_member(box: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16
    plain = mode == 0 or stat.S_IFMT(mode) in (0, stat.S_IFREG)
    return _Member(info.filename, info.file_size, lambda: box.open(info), plain)


def _tar_member(tape: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    return _Member(info.name, info.size, lambda: tape.extractfile(info), info.isreg())


def _safe_parts(archive: Path, member: _Member) -> tuple[str, ...]:
    """The parts of a member's path.

    Raises:
        UserError: it is absolute, leads upwards, or is no plain file.
    """
    text = member.path.replace("\\", "/")
    parts = tuple(part for part in PurePosixPath(text).parts if part != ".")
    outside = text.startswith("/") or ".." in parts or any(":" in part or "\0" in part for part in parts) or not parts
    if outside or not member.is_plain:
        what = "leads out of the folder" if outside else "is a link or a device"
        raise UserError(f"{archive} is refused: its entry {member.path!r} {what}.", "Do not trust this archive.")
    return parts


def _check_size(archive: Path, members: list[_Member], folder: Path) -> int:
    """Return how many bytes the files have together.

    Raises:
        UserError: too many files, a ratio that only a bomb has, or no room on the disk.
    """
    total, packed = sum(member.size for member in members), archive.stat().st_size
    if len(members) > _MAX_FILES or total > _MAX_RATIO * packed + 1_000_000_000:
        raise UserError(
            f"{archive} is refused: {len(members)} files of {total / 1e9:.1f} GB in {packed / 1e6:.1f} MB.",
            "Do not trust this archive; unpack it yourself if you do.",
        )
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(
            f"{archive} needs {total / 1e9:.1f} GB unpacked, {folder} has {free / 1e9:.1f} GB free.",
            "Make room or choose another folder.",
        )
    return total


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Unpack an archive as ``folder``, whole or not at all.

    A single folder at the top of the archive becomes ``folder`` itself. Permissions and owners are not taken over.

    Raises:
        UserError: it is damaged, no archive, too large, or an entry is a link, a device or leads out of the folder.
    """
    source, target = Path(archive), Path(folder)
    with _members(source) as members:
        placed = [(parts, member) for member in members if (parts := _safe_parts(source, member))[0] != "__MACOSX"]
        if not placed:
            raise UserError(f"{source} is empty.", "Download it again.")
        tops = {parts[0] if len(parts) > 1 else None for parts, _ in placed}
        skip = 1 if len(tops) == 1 and None not in tops else 0
        target.parent.mkdir(parents=True, exist_ok=True)
        left = _check_size(source, [member for _, member in placed], target.parent)
        with atomic_folder(target) as temporary:
            for parts, member in placed:
                left -= _copy(source, member, temporary.joinpath(*parts[skip:]), left)
    return target


def _copy(archive: Path, member: _Member, path: Path, limit: int) -> int:
    """Write one file; return its size.

    Raises:
        UserError: it is longer than the archive said.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = member.open()
    if stream is None:
        raise UserError(f"{archive}: the entry {member.path!r} has no content.", "Download it again.")
    written = 0
    with stream, open(path, "wb") as output:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            written += len(block)
            if written > limit:
                raise UserError(f"{archive} is refused: {member.path!r} is larger than stated.", "Do not trust it.")
            output.write(block)
    return written

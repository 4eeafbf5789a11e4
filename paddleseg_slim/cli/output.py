"""The folder that a command writes to: one run at a time, and nothing replaced unless asked for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from paddleseg_slim.cli.arguments import check_folder, visible
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import remove_leftovers

_LOCK = ".running.json"


@contextlib.contextmanager
def claimed(
    path: str, *, overwrite: bool = False, resume: bool = False, resume_flag: str = "--resume_model"
) -> Iterator[Path]:
    """Hold the folder ``path`` for this process.

    Args:
        path: the folder; made if needed.
        overwrite: it may have content.
        resume: it may have content, that of the run which goes on.
        resume_flag: how the command is told to go on, for the message; empty if it cannot.

    Raises:
        UserError: another run is writing there, it has content, or it cannot be written.
    """
    made = not os.path.exists(path)
    folder = check_folder(path)
    if os.environ.get("PADDLE_TRAINER_ID", "0") != "0":  # of a data-parallel run, the first process holds the folder
        yield folder
        return
    lock = folder / _LOCK
    _take(lock)
    try:
        others = [other for other in folder.rglob(_LOCK) if other != lock and _holder(other) is not None]
        remove_leftovers(folder, [other.parent for other in others])
        content = [] if overwrite or resume else visible(folder)
        if content:
            raise UserError(
                f"{folder} is not empty ({content[0].name}{', ...' if len(content) > 1 else ''}).",
                "Give --overwrite to replace what is there, "
                + (f"{resume_flag} to go on with it, " if resume_flag else "")
                + "or another --save_dir.",
            )
        yield folder
    finally:
        lock.unlink(missing_ok=True)
        if made and not any(folder.iterdir()):  # refused before anything was done
            folder.rmdir()


def _take(lock: Path) -> None:
    """Create the lock file; one whose process is gone is replaced."""
    own = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    for _ in range(2):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            holder = _holder(lock)
            if holder is not None:
                raise UserError(
                    f"{lock.parent} is in use by the process {holder}.", "Wait for it, or give another --save_dir."
                ) from None
            lock.unlink(missing_ok=True)
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(own, stream)
        return
    raise UserError(f"{lock.parent} is in use by another run.", "Wait for it, or give another --save_dir.")


def _holder(lock: Path) -> str | None:
    """Who holds a lock; None if that process is gone (its lock is all that a kill left)."""
    try:
        data = json.loads(lock.read_text(encoding="utf-8"))
        pid, host, started = int(data["pid"]), str(data["host"]), float(data["started"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # killed while writing it
        return None
    if host != socket.gethostname():
        return f"{pid} on {host} (remove {lock} if that run is gone)"
    alive = psutil.pid_exists(pid) and abs(psutil.Process(pid).create_time() - started) < 1
    return str(pid) if alive else None

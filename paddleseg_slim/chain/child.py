"""Run one command of a chain in a process that ends when the chain's process does, however that ends.

``python -m paddleseg_slim.chain.child VERB ...`` reads its standard input, a pipe that nobody writes to: when it
closes, the parent is gone.
"""

from __future__ import annotations

import os
import sys
import threading

from paddleseg_slim.cli import runner

ORPHANED = 137


def _end_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock would be held when the interpreter shuts down
        pass
    os._exit(ORPHANED)


def main() -> int:
    """Run the verb; its stage names the command as a user would type it."""
    verb, argv = sys.argv[1], sys.argv[2:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = ["-m", "paddleseg_slim.cli.main", verb, *argv]
    return runner.main(verb, argv)


if __name__ == "__main__":
    sys.exit(main())

"""paddleseg-slim infer, from the root of the repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_slim.cli import runner

if __name__ == "__main__":
    sys.exit(runner.main("infer"))

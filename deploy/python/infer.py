"""paddleseg-slim infer, at PaddleSeg's path: ``python deploy/python/infer.py --config ... --image_path ...``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddleseg_slim.cli import runner

if __name__ == "__main__":
    sys.exit(runner.main("infer"))

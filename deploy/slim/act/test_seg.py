"""paddleseg-slim test_seg, at PaddleSeg's path: ``python deploy/slim/act/test_seg.py --model_path M --config ...``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from paddleseg_slim.cli import runner

if __name__ == "__main__":
    sys.exit(runner.main("test_seg"))

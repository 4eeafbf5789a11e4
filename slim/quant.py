"""Quantize and train on: ``python slim/quant.py --config ... --retraining_iters 100 --model_path ...``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from paddleseg_slim.cli.runner import main

if __name__ == "__main__":
    sys.exit(main("quant"))

"""Quantize without training: ``python slim/post_quant.py --config ... --model_path ... --save_dir quant_model``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from paddleseg_slim.cli.runner import main

if __name__ == "__main__":
    sys.exit(main("post_quant"))

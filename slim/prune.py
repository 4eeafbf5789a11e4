"""Prune a trained model: ``python slim/prune.py --config ... --pruning_ratio 0.3 --retraining_iters 100``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from paddleseg_slim.cli.runner import main

if __name__ == "__main__":
    sys.exit(main("prune"))

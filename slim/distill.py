"""Train a student with a teacher: ``python slim/distill.py --student_config ... --teacher_config ... --do_eval``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_slim.cli import runner

if __name__ == "__main__":
    sys.exit(runner.main("distill"))

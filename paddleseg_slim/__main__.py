"""``python -m paddleseg_slim VERB ...``: the command ``paddleseg-slim`` where it is not on the path."""

import sys

from paddleseg_slim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

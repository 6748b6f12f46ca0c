"""``python -m deqjax``."""

import sys

from deqjax.cli import main

if __name__ == "__main__":
    sys.exit(main())

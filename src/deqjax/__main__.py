"""``deqjax`` in a shell, and ``python -m deqjax``."""

import sys

from deqjax._extras import MissingExtraError


def main() -> int:
    """Run the command that the shell asks for; return the exit status."""
    try:
        from deqjax.cli import main as run
    except MissingExtraError as error:
        print(f"deqjax: error: {error}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())

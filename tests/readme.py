"""Print one of the README's commands, so that CI runs what a reader would type.

Usage: python tests/readme.py NAME

A command is the shell block after the line ``<!-- command: NAME -->``.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def command(name: str) -> str:
    pattern = rf"<!-- command: {re.escape(name)} -->\s*```(?:bash|sh|shell)\n(.*?)```"
    found = re.findall(pattern, README.read_text(), flags=re.DOTALL)
    if len(found) != 1:
        raise SystemExit(f"README.md has {len(found)} commands named {name!r}, expected one.")
    return found[0].strip()


if __name__ == "__main__":
    print(command(sys.argv[1]))

"""The command line: ``deqjax COMMAND ...``.

The shell and the tests come here. A command is a file: a dataclass whose fields are its options
and whose method ``run`` does it. Commands say what the library found; what they compute has its
place elsewhere, and is imported when a command runs, so that help and version are there at once.
"""

from deqjax._extras import needs

with needs("train", "the command line of deqjax"):
    from deqjax.cli._main import main
    from deqjax.cli._parse import parse
    from deqjax.cli._usage import UsageError

__all__ = ["UsageError", "main", "parse"]

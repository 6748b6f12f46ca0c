"""What the records of a run say about it: figures, findings with their remedies, pictures.

The command line, notebooks and the end of a run come here. Reads a run's folder alone: no model is
built and nothing is compiled.
"""

from deqjax.training.report._advice import warnings
from deqjax.training.report._picture import save_run_picture
from deqjax.training.report._report import inspect_run
from deqjax.training.report._text import as_json, print_report

__all__ = [
    "as_json",
    "inspect_run",
    "print_report",
    "save_run_picture",
    "warnings",
]

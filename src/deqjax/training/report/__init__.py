"""What the records of runs say: figures, findings with their remedies, comparisons, pictures.

The command line, notebooks and the end of a run come here. Reads the folders of runs alone: no
model is built and nothing is compiled.
"""

from deqjax.training.report._advice import warnings
from deqjax.training.report._compare import ComparedRun, Comparison, compare_runs
from deqjax.training.report._folders import ListedRun, RunList, list_runs
from deqjax.training.report._picture import save_run_picture
from deqjax.training.report._report import inspect_run
from deqjax.training.report._text import as_json, print_report

__all__ = [
    "ComparedRun",
    "Comparison",
    "ListedRun",
    "RunList",
    "as_json",
    "compare_runs",
    "inspect_run",
    "list_runs",
    "print_report",
    "save_run_picture",
    "warnings",
]

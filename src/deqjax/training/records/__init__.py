"""What a run writes of itself while it goes on: JSON lines, TensorBoard events, a live display.

The loop tells, the report reads. Output that fails never ends a run, and nothing in here decides
anything about one.
"""

from deqjax.training.records._listener import Listener, as_listener
from deqjax.training.records._quantities import rows, words_of, written
from deqjax.training.records._reading import MetricsError, read_metrics
from deqjax.training.records._records import Records, has_record
from deqjax.training.records._window import Window

__all__ = [
    "Listener",
    "MetricsError",
    "Records",
    "Window",
    "as_listener",
    "has_record",
    "read_metrics",
    "rows",
    "words_of",
    "written",
]

"""What batches of any kind of data have in common: shares of processes, threads, workers, errors.

Whoever makes batches comes in here, the training engine among them. Nothing in here knows what a
row is.
"""

from deqjax.data.pipeline._errors import DataError
from deqjax.data.pipeline._prefetch import prefetched
from deqjax.data.pipeline._shares import check_shares
from deqjax.data.pipeline._workers import WorkerBatches

__all__ = ["DataError", "WorkerBatches", "check_shares", "prefetched"]

"""How several processes share one batch."""

from deqjax.data.pipeline._errors import DataError


def check_shares(batch_size: int, process_index: int, process_count: int) -> None:
    """Refuses a batch that the processes cannot share evenly.

    Raises:
        DataError: a number is out of its range, or `process_count` does not divide `batch_size`.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise DataError(
            f"process_index must lie in 0 to process_count - 1, got {process_index} of "
            f"{process_count}"
        )
    if batch_size % process_count:
        raise DataError(
            f"{process_count} processes cannot share a batch of {batch_size} rows evenly: "
            f"choose a batch_size that is a multiple of {process_count}"
        )

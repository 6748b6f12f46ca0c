"""Batches that are prepared before they are asked for, by threads or by other processes."""

from typing import Any

from deqjax.data.pipeline._errors import DataError


def prefetched(batches: Any, threads: int, workers: int) -> Any:
    """An iterator over a `grain.MapDataset`, ahead of its user if it has threads or workers.

    Raises:
        DataError: `threads` or `workers` is negative.
    """
    for name, number in (("threads", threads), ("workers", workers)):
        if number < 0:
            raise DataError(f"{name} must be at least 0, got {number}")
    import grain

    ahead = threads + 1 if threads else 0
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    )
    if not workers:
        return iter(dataset)
    from absl import flags

    from deqjax.data.pipeline._workers import WorkerBatches, end_with_parent

    # Grain's workers ask for flags that only programs of absl's own kind have parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2
    )
    return WorkerBatches(iter(dataset.mp_prefetch(options, worker_init_fn=end_with_parent)))

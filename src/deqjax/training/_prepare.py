"""A look at what a run would train on, before there is a run."""

import functools

from deqjax.training._config import RunConfig, check
from deqjax.training._task_errors import of_task
from deqjax.training.batches import SPLITS, BatchOrder, Data, Pipeline


def prepare(config: RunConfig) -> dict[str, str | None]:
    """Open all data of a run, and make what is only prepared once; no run begins.

    Of each split a first batch is read, so that whatever stops a run at its start is told here.

    Args:
        config: the run.

    Returns:
        Of "train", "validation" and "test" what there is, such as "1,437 images"; None for no test
        data.

    Raises:
        ConfigError, DataError, ExperimentError: the configuration cannot work, data are missing or
            damaged, or the task fails; one sentence that says which and the way out.
    """
    check(config)
    data = Data(of_task(config.task, lambda: config.task.opened(None)))
    order = BatchOrder(config.batch_size, config.seed, config.order == "shuffled", limit=1)
    found: dict[str, str | None] = {}
    for name in SPLITS:
        rows = data.find(name) if name == "test" else data.split(name)
        if rows is not None:
            of_task(config.task, functools.partial(_try, rows, name, order))
        found[name] = None if rows is None else rows.describe()
    return found


def _try(rows: Pipeline, split: str, order: BatchOrder) -> None:
    """Read a first batch."""
    if split == "train":
        next(rows.train(order))
        return
    fewer = rows.evaluation_rows(order.batch_size, 1)
    for _ in rows.evaluate(order._replace(batch_size=fewer)):
        break

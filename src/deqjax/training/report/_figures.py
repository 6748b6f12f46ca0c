"""What the records of a run add up to: last values, trends, extremes and counts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from deqjax._records import Record, is_rollback, loss_unit
from deqjax._scores import throughput
from deqjax.training.records import written

TRENDS = (
    "forward_residual",
    "forward_steps",
    "backward_residual",
    "backward_steps",
    "gradient_norm",
    "penalty",
    "host_memory_gib",
)
"""The metrics of training whose way through the run is told, besides the throughput."""

LEAST_RECORDS = 8
"""Records after the warm-up that a trend needs: two in a quarter."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A value and the step after which it was measured."""

    step: int
    value: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """The metrics of one record by name, and the step after which they were measured."""

    step: int
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Trend:
    """Medians of a metric of training over two quarters of the records after the warm-up.

    Attributes:
        early: of the first quarter.
        late: of the last quarter.
    """

    early: float
    late: float

    @property
    def growth(self) -> float:
        """How many times the early value the late one is; NaN where that means nothing."""
        return self.late / self.early if self.early > 0 else math.nan


@dataclasses.dataclass(frozen=True)
class Happened:
    """An event of the run."""

    step: int
    event: str


@dataclasses.dataclass(frozen=True)
class StateHash:
    """The hash of the state that the checkpoint of a step holds."""

    step: int
    state_hash: str


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the records of a run add up to.

    Attributes:
        experiment: its name.
        steps: finished ones, by the last record.
        planned: steps of the whole run; None if the config does not say.
        loss: the metric that is the run's loss: "bits_per_byte" or "loss".
        unit: of the loss, "" if it has none.
        throughput: the metric that is what the task counts each second; None without one.
        solves: whether anything tells of a forward solve; it does not for an explicit model.
        train: the last record of training.
        validation: the last record of validation.
        best: the lowest validation loss; of equals the first.
        late: means of the metrics of training over the last quarter of the records after the
            warm-up, of all records while there is none after it.
        late_validation: the same of the records of validation.
        lowest_quarter: the lowest mean of the training loss over a quarter of the records after the
            warm-up; None with fewer than LEAST_RECORDS.
        trends: by metric; only with LEAST_RECORDS records or more after the warm-up.
        largest_radius: the largest spectral radius of a sample at any time.
        backward_diverged: the largest share of backward solves that diverged, of any record.
        skipped: updates that were skipped, in all records.
        not_finite: records of training whose loss is not finite.
        rollbacks: events that tell of a rollback.
        events: everything that happened, oldest first.
        state_hash: of the newest checkpoint that was recorded.
        checkpoints: steps that are on disk; None if that is not known.
    """

    experiment: str
    steps: int
    planned: int | None
    loss: str
    unit: str
    throughput: str | None
    solves: bool
    train: Measured | None
    validation: Measured | None
    best: Point | None
    late: dict[str, float]
    late_validation: dict[str, float]
    lowest_quarter: float | None
    trends: dict[str, Trend]
    largest_radius: Point | None
    backward_diverged: Point | None
    skipped: int
    not_finite: int
    rollbacks: int
    events: tuple[Happened, ...]
    state_hash: StateHash | None
    checkpoints: tuple[int, ...] | None

    def loss_of(self, value: float, form: str = ".4f") -> str:
        """A loss as it is written, with its unit."""
        return f"{written(value, form)} {self.unit}".rstrip()


def measure(
    records: Sequence[Record], config: Mapping[str, Any], checkpoints: Sequence[int] | None
) -> Figures:
    """Adds up the records of a run; see `deqjax.training.report._report.build_report`."""
    train = [record for record in records if record["split"] == "train"]
    validation = [record for record in records if record["split"] == "validation"]
    happened = [record for record in records if record["split"] == "event"]
    settled = _after_warm_up(train, config)
    name, unit = loss_unit([*train, *validation])
    speed = throughput(each for record in train for each in record)
    trends = TRENDS if speed is None else (*TRENDS, speed)
    known = None if checkpoints is None else tuple(sorted(checkpoints))
    return Figures(
        experiment=str(config.get("name", "run")),
        steps=_finished(records, known),
        planned=_count(config.get("steps")),
        loss=name,
        unit=unit,
        throughput=speed,
        solves=any("forward_steps" in record for record in records),
        train=_measured(train),
        validation=_measured(validation),
        best=_extreme(validation, name, largest=False),
        late=_means(_last_quarter(settled or train)),
        late_validation=_means(_last_quarter(validation)),
        lowest_quarter=_lowest_quarter(settled, name),
        trends={name: trend for name in trends if (trend := _trend(settled, name)) is not None},
        largest_radius=_extreme(validation, "spectral_radius_max"),
        backward_diverged=_extreme(train, "backward_diverged"),
        skipped=round(sum(each["skipped"] for each in train if _finite(each, "skipped"))),
        not_finite=sum("loss" in each and not _finite(each, "loss") for each in train),
        rollbacks=sum(map(is_rollback, happened)),
        events=tuple(Happened(each["step"], each["event"]) for each in happened),
        state_hash=_state_hash(records),
        checkpoints=known,
    )


def _count(value: Any) -> int | None:
    """What a stored config says of a number of steps; None if it is none."""
    return value if isinstance(value, int) and value >= 0 else None


def _after_warm_up(train: Sequence[Record], config: Mapping[str, Any]) -> list[Record]:
    """Neither of the learning rate's warm-up nor of the stage in which layers are only applied."""
    schedule = config.get("optimizer")
    named = schedule.get("warmup_steps") if isinstance(schedule, Mapping) else None
    warm_up = max(_count(named) or 0, _count(config.get("pretrain_steps")) or 0)
    return [record for record in train if record["step"] > warm_up]


def _finished(records: Sequence[Record], checkpoints: Sequence[int] | None) -> int:
    # not the largest step: a run that was rolled back is where it was rolled back to
    steps = [record["step"] for record in records if record["split"] != "event"]
    return steps[-1] if steps else max(checkpoints or (), default=0)


def _measured(records: Sequence[Record]) -> Measured | None:
    if not records:
        return None
    values = {name: v for name, v in records[-1].items() if name not in ("step", "split")}
    return Measured(records[-1]["step"], values)


def _extreme(records: Sequence[Record], name: str, *, largest: bool = True) -> Point | None:
    points = [Point(each["step"], each[name]) for each in records if _finite(each, name)]
    if not points:
        return None
    return (max if largest else min)(points, key=lambda point: point.value)


def _last_quarter(records: Sequence[Record]) -> Sequence[Record]:
    return records[-max(1, len(records) // 4) :]


def _means(records: Sequence[Record]) -> dict[str, float]:
    names = {name: None for record in records for name in record if name not in ("step", "split")}
    found = {name: [r[name] for r in records if _finite(r, name)] for name in names}
    return {name: fmean(values) for name, values in found.items() if values}


def _lowest_quarter(settled: Sequence[Record], name: str) -> float | None:
    if len(settled) < LEAST_RECORDS:
        return None
    quarter = len(settled) // 4
    # from the end, so that the last one is that of `late`
    parts = (settled[len(settled) - (k + 1) * quarter :][:quarter] for k in range(4))
    means = [part[name] for part in map(_means, parts) if name in part]
    return min(means, default=None)


def _trend(settled: Sequence[Record], name: str) -> Trend | None:
    if len(settled) < LEAST_RECORDS:
        return None
    quarter = len(settled) // 4
    # medians, because one step that went astray is no trend
    ends = [
        [record[name] for record in part if _finite(record, name)]
        for part in (settled[:quarter], settled[-quarter:])
    ]
    return Trend(*map(median, ends)) if all(ends) else None


def _state_hash(records: Sequence[Record]) -> StateHash | None:
    found = [record for record in records if "state_hash" in record]
    return StateHash(found[-1]["step"], found[-1]["state_hash"]) if found else None


def _finite(record: Record, name: str) -> bool:
    return name in record and math.isfinite(record[name])

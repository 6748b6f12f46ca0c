import io
import json
import math

import jax.numpy as jnp
import pytest
from rich.console import Console

from deqjax.training.metrics import MetricsError, MetricsWriter, progress_bar, read_metrics
from deqjax.training.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def write_steps(workdir, steps, resume_step=None, loss=1.0):
    with MetricsWriter(workdir, resume_step) as writer:
        for step in steps:
            writer.write(step, "train", {"loss": loss})


def steps_and_losses(workdir):
    return [(record["step"], record["loss"]) for record in read_metrics(workdir.metrics)]


def test_records_come_back(workdir):
    with MetricsWriter(workdir, None) as writer:
        writer.write(1, "train", {"loss": 0.1, "forward_steps": 12})
        writer.write(1, "validation", {"bits_per_byte": jnp.float32(2.5)})
    assert read_metrics(workdir.metrics) == [
        {"step": 1, "split": "train", "loss": 0.1, "forward_steps": 12.0},
        {"step": 1, "split": "validation", "bits_per_byte": 2.5},
    ]


def test_record_is_readable_at_once(workdir):
    with MetricsWriter(workdir, None) as writer:
        writer.write(1, "train", {"loss": 0.1})
        assert steps_and_losses(workdir) == [(1, 0.1)]


def test_values_that_are_not_finite_are_valid_json(workdir):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf}
    with MetricsWriter(workdir, None) as writer:
        writer.write(1, "train", values)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(workdir.metrics.read_text(), parse_constant=refuse)
    assert [found[name] for name in values] == ["nan", "inf", "-inf"]
    [record] = read_metrics(workdir.metrics)
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)


def test_values_that_are_not_finite_survive_a_resume(workdir):
    write_steps(workdir, [1], loss=math.inf)
    write_steps(workdir, [2], resume_step=1)
    assert steps_and_losses(workdir) == [(1, math.inf), (2, 1.0)]


@pytest.mark.parametrize("name", ["step", "split"])
def test_reserved_names(workdir, name):
    with (
        MetricsWriter(workdir, None) as writer,
        pytest.raises(MetricsError, match=f"cannot be called '{name}'"),
    ):
        writer.write(1, "train", {name: 1.0})


def test_resume_drops_what_came_after_the_checkpoint(workdir):
    write_steps(workdir, range(1, 6))
    write_steps(workdir, range(4, 7), resume_step=3, loss=2.0)
    assert steps_and_losses(workdir) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def test_run_from_step_zero_drops_all(workdir):
    write_steps(workdir, [1, 2])
    write_steps(workdir, [1], loss=2.0)
    assert steps_and_losses(workdir) == [(1, 2.0)]


def test_resume_after_a_line_cut_off(workdir):
    write_steps(workdir, [1, 2, 3])
    workdir.metrics.write_bytes(workdir.metrics.read_bytes()[:-10])
    write_steps(workdir, [3], resume_step=2, loss=2.0)
    assert steps_and_losses(workdir) == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_last_line_cut_off_is_left_out(workdir):
    write_steps(workdir, [1, 2])
    with workdir.metrics.open("a") as file:
        file.write('{"step": 3, "spl')
    assert [record["step"] for record in read_metrics(workdir.metrics)] == [1, 2]


def test_complete_last_line_that_is_damaged_is_named(workdir):
    workdir.metrics.write_text('{"step": 3, "spl\n')
    with pytest.raises(MetricsError, match=r"Line 1 of .* is not a record"):
        read_metrics(workdir.metrics)


DAMAGED = ["{", "[1]", "3", '{"step": 1}', '{"step": 1, "split": "train", "loss": "x"}']


@pytest.mark.parametrize("line", DAMAGED)
def test_other_damaged_line_is_named(workdir, line):
    write_steps(workdir, [1, 2])
    workdir.metrics.write_text(f"{line}\n{workdir.metrics.read_text()}")
    with pytest.raises(MetricsError, match=r"Line 1 of .*metrics.jsonl is not a record"):
        read_metrics(workdir.metrics)


def test_no_file_means_no_records(workdir):
    assert read_metrics(workdir.metrics) == []


def test_tensorboard_gets_every_finite_scalar(workdir):
    with MetricsWriter(workdir, 4) as writer:
        writer.write(5, "train", {"loss": 0.25, "gradient_norm": math.nan})
        writer.write(5, "validation", {"loss": 0.5})
    found = [
        (event.step, value.tag, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]
    assert found == [(5, "train/loss", 0.25), (5, "validation/loss", 0.5)]


def test_tensorboard_hides_what_came_after_the_checkpoint(workdir):
    write_steps(workdir, [5], resume_step=4)
    assert [event.step for event in events(workdir) if event.HasField("session_log")] == [5]


def events(workdir):
    """Reads event files by hand: length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(workdir.events.iterdir()):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            yield Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def show(terminal, steps, total=10, every=0.0, metrics=None):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, _environ={})
    with progress_bar(total, 2, console=console, every=every) as bar:
        for step in steps:
            bar.update(step, metrics or {"loss": 1.23456, "forward_steps": 8, "other": 1.0})
    return file.getvalue()


def test_plain_lines_without_a_terminal():
    first, last = show(False, [5, 10]).splitlines()
    assert first == "step 5/10  loss 1.235  steps 8  0:00:00 left"
    assert last == "step 10/10  loss 1.235  steps 8"


def test_plain_lines_are_rare_but_the_last_is_shown():
    lines = show(False, range(3, 11), every=3600).splitlines()
    assert [line.split()[1] for line in lines] == ["3/10", "10/10"]


def test_residual_is_shown():
    metrics = {"forward_residual": 0.00123456}
    assert "residual 0.001235" in show(False, [3], metrics=metrics)


def test_bar_on_a_terminal():
    shown = show(True, [10])
    assert "\x1b[" in shown
    assert "10/10" in shown
    assert "loss 1.235  steps 8" in shown

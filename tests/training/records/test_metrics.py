import json
import math
import shutil

import jax.numpy as jnp
import pytest

from deqjax.training._workdir import Workdir
from deqjax.training.records._metrics import (
    MetricsWriter,
)
from deqjax.training.records._reading import MetricsError, comparable, read_metrics


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


@pytest.mark.parametrize("name", ["step", "split", "event", "state_hash"])
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
    with MetricsWriter(workdir, 2) as writer:
        writer.write_event(2, "resumed")
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


def write_history(workdir):
    """Three steps with a checkpoint and an event each."""
    with MetricsWriter(workdir, None) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": 1.0})
            writer.write_state_hash(step, f"{step}" * 64)
            writer.write_event(step, f"event {step}\nof the run")


def parts(workdir):
    return [(record["step"], record["split"]) for record in read_metrics(workdir.metrics)]


def test_texts_come_back_as_they_are(workdir):
    write_history(workdir)
    assert read_metrics(workdir.metrics)[1:3] == [
        {"step": 1, "split": "checkpoint", "state_hash": "1" * 64},
        {"step": 1, "split": "event", "event": "event 1\nof the run"},
    ]


def test_text_that_looks_like_a_number_stays_a_text(workdir):
    with MetricsWriter(workdir, None) as writer:
        writer.write_event(1, "nan")
        writer.write_state_hash(1, "1e3")
    assert [r.get("event") or r["state_hash"] for r in read_metrics(workdir.metrics)] == [
        "nan",
        "1e3",
    ]


STORY = [(1, "train"), (1, "checkpoint"), (1, "event"), (2, "event"), (3, "event")]


def test_events_stay_on_a_resume_and_later_records_go(workdir):
    write_history(workdir)
    write_steps(workdir, [2], resume_step=1)
    assert parts(workdir) == [*STORY, (2, "train")]


def test_rollback_drops_later_records_but_not_events(workdir):
    write_history(workdir)
    with MetricsWriter(workdir, 3) as writer:
        writer.write_event(3, "rolled back to step 1")
        writer.rewind(1)
        writer.write(2, "train", {"loss": 2.0})
    assert parts(workdir) == [*STORY, (3, "event"), (2, "train")]


def test_tensorboard_hides_what_a_rollback_dropped(workdir):
    with MetricsWriter(workdir, None) as writer:
        writer.rewind(7)
    assert [event.step for event in events(workdir) if event.HasField("session_log")] == [0, 8]


def test_equal_runs_are_comparable(workdir):
    with MetricsWriter(workdir, None) as writer:
        writer.write_event(0, "started")
        writer.write(
            1,
            "train",
            {
                "loss": 1.5,
                "images_per_second": 3.0,
                "tokens_per_second": 3.0,
                "data_wait": 0.1,
                "host_memory_gib": 2.0,
                "device_memory_gib": 2.0,
            },
        )
        writer.write_state_hash(1, "ab")
    assert comparable(read_metrics(workdir.metrics)) == [
        {"step": 1, "split": "train", "loss": 1.5},
        {"step": 1, "split": "checkpoint", "state_hash": "ab"},
    ]


def test_file_that_cannot_be_read_is_named(workdir):
    workdir.metrics.mkdir()
    with pytest.raises(MetricsError, match=r"metrics.jsonl cannot be read \(Is a directory\)"):
        read_metrics(workdir.metrics)


class Told(list):
    """Sentences that were said."""

    __call__ = list.append


def steps_of(workdir):
    return [record["step"] for record in read_metrics(workdir.metrics)]


def test_full_disk_is_told_once_and_nothing_is_lost(workdir, file_size_limit):
    told = Told()
    with MetricsWriter(workdir, None, told) as writer:
        writer.write(1, "train", {"loss": 1.0})
        file_size_limit(20)
        for step in (2, 3):
            writer.write(step, "train", {"loss": 1.0})
        file_size_limit(None)
        writer.write(4, "train", {"loss": 1.0})
    assert steps_of(workdir) == [1, 2, 3, 4]
    assert len(told) == 2
    assert "metrics.jsonl cannot be written to (File too large); records are kept in" in told[0]
    assert "can be written to again" in told[1]


def test_second_failure_is_told_too(workdir, file_size_limit):
    told = Told()
    with MetricsWriter(workdir, None, told) as writer:
        for limit in (20, None, 20, None):
            file_size_limit(limit)
            writer.write(1, "train", {"loss": 1.0})
    assert ["cannot" in sentence for sentence in told] == [True, False, True, False]


def test_disk_that_stays_full_costs_the_later_records_only(workdir, file_size_limit):
    told = Told()
    with MetricsWriter(workdir, None, told) as writer:
        writer.write(1, "train", {"loss": 1.0})
        file_size_limit(workdir.metrics.stat().st_size + 10)
        for step in (2, 3):
            writer.write(step, "train", {"loss": 1.0})
    assert workdir.metrics.read_bytes().endswith(b"\n")
    assert steps_of(workdir) == [1]
    assert told[-1].startswith("2 records are lost: ")


def test_full_disk_at_the_start_of_a_resume(workdir, file_size_limit):
    write_steps(workdir, [1, 2, 3])
    told = Told()
    file_size_limit(20)
    with MetricsWriter(workdir, 2, told) as writer:
        assert steps_of(workdir) == [1, 2, 3]
        file_size_limit(None)
        writer.write(3, "train", {"loss": 1.0})
    assert steps_of(workdir) == [1, 2, 3]
    assert "cannot be written to" in told[0]


def test_rollback_on_a_full_disk(workdir, file_size_limit):
    with MetricsWriter(workdir, None, Told()) as writer:
        writer.write(1, "train", {"loss": 1.0})
        file_size_limit(20)
        writer.write(2, "train", {"loss": 1.0})
        writer.write_event(2, "rolled back to step 1")
        writer.rewind(1)
        file_size_limit(None)
    assert parts(workdir) == [(1, "train"), (2, "event")]


def test_folder_that_is_gone_for_a_while(workdir, tmp_path):
    folder, told = workdir.path / "run", Told()
    folder.mkdir()
    with MetricsWriter(type(workdir)(folder), None, told) as writer:
        writer.write(1, "train", {"loss": 1.0})
        folder.rename(tmp_path / "away")
        folder.write_text("in the way")
        writer.write(2, "train", {"loss": 1.0})
        folder.unlink()
        (tmp_path / "away").rename(folder)
    assert steps_of(type(workdir)(folder)) == [1, 2]
    assert "(File exists)" in told[0] or "(Not a directory)" in told[0]


def test_log_on_the_same_full_disk_ends_no_run(workdir, file_size_limit):
    def say(sentence):
        raise OSError(28, "No space left on device")

    with MetricsWriter(workdir, None, say) as writer:
        file_size_limit(20)
        writer.write(1, "train", {"loss": 1.0})
    assert steps_of(workdir) == []


def test_tensorboard_that_cannot_be_written_ends_no_run(workdir):
    # tensorboardX's own writer waits for ever at the eleventh of these
    told = Told()
    workdir.events.write_text("no folder")
    with MetricsWriter(workdir, None, told) as writer:
        for step in range(50):
            writer.write(step, "train", {"loss": 1.0})
    assert steps_of(workdir) == list(range(50))
    assert "events.out.tfevents" in told[0]
    assert "52 records for TensorBoard are lost" in told[-1]


def test_tensorboard_gets_what_a_full_disk_held_up(workdir, file_size_limit):
    with MetricsWriter(workdir, None, Told()) as writer:
        file_size_limit(20)
        for step in range(20):
            writer.write(step, "train", {"loss": 1.0})
        file_size_limit(None)
    assert [event.step for event in events(workdir) if event.summary.value] == list(range(20))


def test_tensorboards_folder_that_is_deleted_comes_back(workdir):
    with MetricsWriter(workdir, None) as writer:
        shutil.rmtree(workdir.events)
        writer.write(1, "train", {"loss": 1.0})
    assert [event.step for event in events(workdir)] == [1]


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

import dataclasses
import math
from pathlib import Path

import pytest

from deqjax.tasks.language import LanguageTask
from deqjax.training import ConfigError, RunConfig, Share, load_run, train
from deqjax.training._config import check
from deqjax.training._config_values import to_dict
from deqjax.training._finished import _on_these_devices
from deqjax.training._stored_config import from_dict
from deqjax.training._stored_task import stored_task
from deqjax.training._workdir import Workdir, write_config
from tiny import tiny_config


def changed(config, path, value):
    first, _, rest = path.partition(".")
    if rest:
        value = changed(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})


def test_round_trip_through_json_values(tmp_path):
    config = tiny_config(tmp_path)
    assert from_dict(to_dict(config), LanguageTask) == config


def test_good_config_passes(tmp_path):
    check(tiny_config(tmp_path))


# option -> a value that once trained to the end, or ended the process
UNUSABLE = [
    ("task.network.solver.damping", math.nan, "must be a finite number, got nan"),
    ("task.network.solver.damping", 0.0, "must be greater than 0, got 0.0"),
    ("task.network.solver.damping", -3.0, "must be greater than 0, got -3.0"),
    ("penalty.weight", math.inf, "must be a finite number, got inf"),
    ("task.network.solver.tol", math.inf, "must be a finite number, got inf"),
    ("task.network.solver.ridge", math.inf, "must be a finite number, got inf"),
    ("seed", 2**64, "must be at most 4294967295, got 18446744073709551616"),
    ("task.network.shape.width", 10**7, "must be at most 16384, got 10000000"),
    ("task.network.solver.history", 10**9, "must be at most 1000, got 1000000000"),
    ("task.network.shape.vocabulary", 10**12, "must be at most 1000000, got 1000000000000"),
    ("task.network.kind", "transformer", "must be 'deq_transformer', .*, got 'transformer'"),
    ("task.text.file", Path("text.txt"), "must be a valid string, got PosixPath"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), UNUSABLE)
def test_bad_value_is_named(tmp_path, path, value, sentence):
    with pytest.raises(ConfigError, match=f"^--{path} {sentence}"):
        check(changed(tiny_config(tmp_path), path, value))


def test_a_run_of_a_bad_value_is_not_begun(tmp_path):
    config = changed(tiny_config(tmp_path), "penalty.weight", math.nan)
    with pytest.raises(ConfigError, match=r"--penalty\.weight"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [math.nan, 10**7])
def test_a_stored_value_out_of_range_is_named(tmp_path, value):
    values = to_dict(tiny_config(tmp_path))
    values["task"]["network"]["shape"]["width"] = value
    task = stored_task(LanguageTask(), LanguageTask())
    write_config(Workdir(tmp_path), "tiny", values, task)
    with pytest.raises(
        ConfigError, match=r"does not fit: --task\.network\.shape\.width must be .* got"
    ):
        load_run(tmp_path)


def test_every_bad_value_has_its_sentence(tmp_path):
    config = changed(changed(tiny_config(tmp_path), "steps", 0), "optimizer.beta2", 1.0)
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert str(caught.value).splitlines() == [
        "--steps must be at least 1, got 0.",
        "--optimizer.beta2 must be less than 1, got 1.0.",
    ]


@dataclasses.dataclass(frozen=True)
class OwnTask(LanguageTask):
    noise: Share = 0.1


def test_a_task_of_ones_own_is_checked_by_its_annotations():
    with pytest.raises(ConfigError, match=r"--task\.noise must be at most 1, got 2\.0"):
        check(RunConfig("own", task=OwnTask(noise=2.0)))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a\nb", "a\0b", "\x1b[31m"])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="--name must be what a folder can be called"):
        check(tiny_config(tmp_path, name=name))


@pytest.mark.parametrize("path", ["name", "task.text.file", "task.text.directory"])
def test_a_text_that_no_file_can_hold_is_named(tmp_path, path):
    with pytest.raises(ConfigError, match=f"^--{path} must be a text of Unicode characters, got"):
        check(changed(tiny_config(tmp_path), path, "a\udcff"))
    with pytest.raises(ConfigError, match=f"^--{path} must be a text of Unicode characters, got"):
        to_dict(changed(tiny_config(tmp_path), path, "a\udcff"))


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--batch_size 4 cannot be worked off in --micro_batches"):
        check(tiny_config(tmp_path, micro_batches=3))


def test_zero_backward_steps_are_allowed(tmp_path):
    check(changed(tiny_config(tmp_path), "task.network.solver.backward_max_steps", 0))


def test_mistyped_stored_field_is_named(tmp_path):
    values = to_dict(tiny_config(tmp_path))
    values["penalty"]["weight"] = "strong"
    with pytest.raises(ConfigError, match=r"penalty\.weight"):
        from_dict(values, LanguageTask)


def test_unknown_stored_field_is_refused(tmp_path):
    values = to_dict(tiny_config(tmp_path))
    values["optimizer"]["beta3"] = 0.9
    with pytest.raises(ConfigError, match=r"optimizer\.beta3: 0\.9 -> absent"):
        from_dict(values, LanguageTask)


def test_a_field_that_a_stored_configuration_lacks_is_named(tmp_path):
    values = to_dict(tiny_config(tmp_path))
    del values["task"]["network"]["solver"]["backward_history"]
    with pytest.raises(ConfigError, match=r"backward_history: absent -> null"):
        from_dict(values, LanguageTask)


def test_copies_of_the_state_cannot_share_a_row(tmp_path):
    with pytest.raises(ConfigError, match=r"--model_devices 2 .* add --parallel sharded"):
        check(tiny_config(tmp_path, model_devices=2))


@pytest.mark.parametrize(("count", "expected"), [(4, 2), (3, 1)])
def test_a_run_is_used_where_its_groups_of_devices_do_not_fit(
    tmp_path, monkeypatch, count, expected
):
    monkeypatch.setattr("jax.local_device_count", lambda: count)
    config = tiny_config(tmp_path, parallel="sharded", model_devices=2)
    assert _on_these_devices(config).model_devices == expected

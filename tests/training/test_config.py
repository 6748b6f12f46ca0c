import dataclasses
import json
import math
from pathlib import Path

import pytest

from deqjax.training import ConfigError, DataConfig, Share, TrainConfig, load_run, train
from deqjax.training._config import check
from deqjax.training._language import load_corpus
from deqjax.training._stored_config import from_dict, to_dict
from tiny import tiny_config


def changed(config, path, value):
    first, _, rest = path.partition(".")
    if rest:
        value = changed(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})


def test_round_trip_through_json_values(tmp_path):
    config = tiny_config(tmp_path)
    assert from_dict(to_dict(config)) == config


def test_good_config_passes(tmp_path):
    check(tiny_config(tmp_path))


# option -> a value that once trained to the end, or ended the process
UNUSABLE = [
    ("model.solver.damping", math.nan, "must be a finite number, got nan"),
    ("model.solver.damping", 0.0, "must be greater than 0, got 0.0"),
    ("model.solver.damping", -3.0, "must be greater than 0, got -3.0"),
    ("penalty.weight", math.inf, "must be a finite number, got inf"),
    ("model.solver.tol", math.inf, "must be a finite number, got inf"),
    ("model.solver.ridge", math.inf, "must be a finite number, got inf"),
    ("seed", 2**64, "must be at most 4294967295, got 18446744073709551616"),
    ("model.shape.width", 10**7, "must be at most 16384, got 10000000"),
    ("model.solver.history", 10**9, "must be at most 1000, got 1000000000"),
    ("model.shape.vocabulary", 10**12, "must be at most 1000000, got 1000000000000"),
    ("model.kind", "transformer", "must be 'deq_transformer', .*, got 'transformer'"),
    ("data.file", Path("text.txt"), "must be a valid string, got PosixPath"),
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
    values["model"]["shape"]["width"] = value
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "tiny", "config": values}))
    with pytest.raises(ConfigError, match=r"does not fit: --model\.shape\.width must be .* got"):
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
class OwnData(DataConfig):
    noise: Share = 0.1


@dataclasses.dataclass(frozen=True)
class OwnConfig(TrainConfig):
    data: OwnData = dataclasses.field(default_factory=OwnData)


def test_a_configuration_of_ones_own_is_checked_by_its_annotations():
    with pytest.raises(ConfigError, match=r"--data\.noise must be at most 1, got 2\.0"):
        check(OwnConfig("own", data=OwnData(noise=2.0)))


def test_width_must_be_a_multiple_of_heads(tmp_path):
    with pytest.raises(ConfigError, match=r"--model\.shape\.width 8 .* --model\.shape\.heads 3"):
        check(changed(tiny_config(tmp_path), "model.shape.heads", 3))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.shape.memory_length": 8}, "memory_length 8 needs --data.order streams"),
        ({"step_limit.least": 7}, "--step_limit.least 7 is above --model.solver.max_steps 6"),
        ({"data.corpus": "text_bytes"}, "--data.corpus text_bytes needs a text file"),
        ({"model.kind": "transformer_xl", "pretrain_steps": 5}, "--pretrain_steps warms up"),
        ({"model.solver.adjoint": "reversible"}, "needs the method 'reversible', got 'anderson'"),
        ({"model.solver.adjoint": "shine"}, "needs the method 'broyden', got 'anderson'"),
        (
            {"model.solver.method": "reversible", "model.solver.damping": 1.0},
            "--model.solver.damping: the method 'reversible' needs a damping below 1, got 1",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named(tmp_path, changes, sentence):
    config = tiny_config(tmp_path)
    for path, value in changes.items():
        config = changed(config, path, value)
    with pytest.raises(ConfigError, match=sentence):
        check(config)


def test_a_vocabulary_smaller_than_the_corpus_is_refused(data_directory):
    config = changed(tiny_config(data_directory), "model.shape.vocabulary", 100)
    with pytest.raises(ConfigError, match="vocabulary must be at least 256 for the bytes"):
        load_corpus(config)


def test_zero_backward_steps_are_allowed(tmp_path):
    check(changed(tiny_config(tmp_path), "model.solver.backward_max_steps", 0))


def test_mistyped_stored_field_is_named(tmp_path):
    values = to_dict(tiny_config(tmp_path))
    values["penalty"]["weight"] = "strong"
    with pytest.raises(ConfigError, match=r"penalty\.weight"):
        from_dict(values)


def test_unknown_stored_field_is_refused(tmp_path):
    values = to_dict(tiny_config(tmp_path))
    values["optimizer"]["beta3"] = 0.9
    with pytest.raises(ConfigError, match=r"optimizer\.beta3: 0\.9 -> absent"):
        from_dict(values)


def test_a_field_that_a_stored_configuration_lacks_is_named(tmp_path):
    values = to_dict(tiny_config(tmp_path))
    del values["model"]["solver"]["backward_history"]
    with pytest.raises(ConfigError, match=r"backward_history: absent -> null"):
        from_dict(values)

import dataclasses

import pytest

from deqjax.training import ConfigError
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


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", 0),
        ("log_every", 0),
        ("model.solver.max_steps", 0),
        ("model.solver.history", 0),
        ("model.solver.backward_max_steps", -1),
        ("model.solver.backward_history", 0),
        ("data.batch_size", 0),
        ("penalty.weight", -0.1),
        ("penalty.weight", float("nan")),
        ("penalty.probability", 1.5),
        ("model.shape.dropout", -0.1),
        ("optimizer.clip_norm", 0.0),
        ("model.shape.memory_length", -1),
        ("model.shape.divisor", 0),
        ("penalty.increment_every", 0),
        ("pretrain_layers", 0),
        ("optimizer.beta2", 1.5),
        ("evaluation.every", 0),
    ],
)
def test_bad_value_is_named(tmp_path, path, value):
    with pytest.raises(ConfigError, match=f"--{path} .*{value}"):
        check(changed(tiny_config(tmp_path), path, value))


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

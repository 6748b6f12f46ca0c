import numpy as np
import pytest

from deqjax.data import fingerprint

SETTINGS = {"length": 10, "batch_size": 4, "seed": 0, "process_count": 2}


def test_a_fingerprint_is_sixteen_stable_digits():
    # The value of the first run: checkpoints on disk hold it.
    assert fingerprint(np.arange(231, dtype=np.uint8), **SETTINGS) == "24fbdbb72589e739"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_changes_the_fingerprint(tokens, name):
    changed = {**SETTINGS, name: SETTINGS[name] + 1}
    assert fingerprint(tokens, **changed) != fingerprint(tokens, **SETTINGS)


def test_one_byte_changes_the_fingerprint(tokens):
    changed = tokens.copy()
    changed[100] += 1
    assert fingerprint(changed, **SETTINGS) != fingerprint(tokens, **SETTINGS)


def test_a_stream_has_another_fingerprint(tokens):
    assert fingerprint(tokens, **SETTINGS, order="stream") != fingerprint(tokens, **SETTINGS)


def test_the_seed_does_not_count_in_a_stream(tokens):
    settings = {**SETTINGS, "order": "stream"}
    assert fingerprint(tokens, **{**settings, "seed": 1}) == fingerprint(tokens, **settings)


@pytest.mark.parametrize("name", ["length", "batch_size", "process_count"])
def test_every_other_setting_changes_the_fingerprint_of_a_stream(tokens, name):
    settings = {**SETTINGS, "order": "stream"}
    changed = {**settings, name: settings[name] + 1}
    assert fingerprint(tokens, **changed) != fingerprint(tokens, **settings)


def test_bytes_that_mean_other_tokens_have_another_fingerprint():
    wide = np.arange(1000, dtype=np.int32)
    assert fingerprint(wide.view(np.int16), **SETTINGS) != fingerprint(wide, **SETTINGS)


def test_tokens_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="vector of integers, got float64"):
        fingerprint(np.zeros(4), **SETTINGS)

import json

import numpy as np
import pytest

from deqjax.data import fingerprint

SETTINGS = {"length": 10, "batch_size": 4, "seed": 0}


def test_a_fingerprint_names_what_decides_the_batches():
    assert fingerprint(np.arange(231, dtype=np.uint8), **SETTINGS) == {
        "version": 1,
        "order": "shuffled",
        "length": 10,
        "batch_size": 4,
        "seed": 0,
        "count": 231,
        "tokens": "e36428c08853846e",
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_its_value_alone(tokens, name):
    value = SETTINGS[name] + 1
    changed = fingerprint(tokens, **{**SETTINGS, name: value})
    assert changed == {**fingerprint(tokens, **SETTINGS), name: value}


def test_one_byte_changes_the_hash_alone(tokens):
    edited = tokens.copy()
    edited[100] += 1
    before, after = (fingerprint(values, **SETTINGS) for values in (tokens, edited))
    assert {name for name in before if before[name] != after[name]} == {"tokens"}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stream_has_no_seed(tokens, seed):
    stream = fingerprint(tokens, **{**SETTINGS, "seed": seed}, order="stream")
    assert stream == {**fingerprint(tokens, **SETTINGS), "order": "stream", "seed": None}


def test_bytes_that_mean_other_tokens_have_another_hash():
    wide = np.arange(1000, dtype=np.int32)
    hashes = {fingerprint(tokens, **SETTINGS)["tokens"] for tokens in (wide, wide.view(np.int16))}
    assert len(hashes) == 2


@pytest.mark.parametrize("order", ["shuffled", "stream"])
def test_json_gives_an_equal_fingerprint_back(tokens, order):
    found = fingerprint(tokens, **SETTINGS, order=order)
    assert json.loads(json.dumps(found)) == found


def test_tokens_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="vector of integers, got float64"):
        fingerprint(np.zeros(4), **SETTINGS)

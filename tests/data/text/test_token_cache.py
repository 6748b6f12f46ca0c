import errno
import json
import os

import numpy as np
import pytest

from deqjax.data import Vocabulary
from deqjax.data.text._token_cache import Encoded, cached_tokens

TEXT = "the cat sat on the mat\n"
VOCABULARY = Vocabulary.of_words(TEXT)
SPLITS = {
    "train": VOCABULARY.encode(TEXT * 50),
    "validation": np.arange(300, dtype=np.uint16),
    "test": np.array([0, 70000], np.int32),
}


def encode():
    return Encoded(SPLITS, VOCABULARY)


def twice():
    pytest.fail("encoded although the tokens are there")


def assert_same(encoded):
    assert encoded.vocabulary == VOCABULARY
    assert encoded.splits.keys() == SPLITS.keys()
    for split, tokens in SPLITS.items():
        np.testing.assert_array_equal(encoded.splits[split], tokens, strict=True)


def test_tokens_are_encoded_once(tmp_path):
    assert_same(cached_tokens(tmp_path / "tokens", encode))
    assert_same(cached_tokens(tmp_path / "tokens", twice))


def test_tokens_are_mapped_from_their_files(tmp_path):
    tokens = cached_tokens(tmp_path / "tokens", encode).splits["train"]
    assert (type(tokens), isinstance(tokens.base, np.memmap)) == (np.ndarray, True)
    assert not tokens.flags.writeable


def test_only_the_folder_stays_behind(tmp_path):
    cached_tokens(tmp_path / "tokens", encode)
    assert os.listdir(tmp_path) == ["tokens"]


def test_who_finishes_second_reads_the_first_copy(tmp_path):
    first = Encoded({"train": np.arange(9)}, VOCABULARY)

    def overtaken():
        cached_tokens(tmp_path / "tokens", lambda: first)  # the other process, from start to end
        return encode()

    splits = cached_tokens(tmp_path / "tokens", overtaken).splits
    assert {split: tokens.tolist() for split, tokens in splits.items()} == {"train": [*range(9)]}
    assert os.listdir(tmp_path) == ["tokens"]


def test_a_failed_encoding_leaves_nothing(tmp_path):
    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_tokens(tmp_path / "tokens", fails)
    assert os.listdir(tmp_path) == []


# Where it cannot be written


def test_without_a_place_to_write_tokens_are_encoded_each_time(tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        assert_same(cached_tokens(tmp_path / "file" / "tokens", encode))


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fails)
    assert_same(cached_tokens(tmp_path / "tokens", encode))
    assert os.listdir(tmp_path) == []


# Damage


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def remove(file):
    file.unlink()


def put_a_list(file):
    file.write_text("[]")


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, remove, put_a_list])
@pytest.mark.parametrize("name", ["train.npy", "test.npy", "vocabulary.json", "sha256.json"])
def test_damage_to_any_file_is_noticed(tmp_path, name, damage):
    cached_tokens(tmp_path / "tokens", encode)
    damage(tmp_path / "tokens" / name)
    with pytest.raises(
        ValueError, match=r"the encoded tokens in '.*/tokens' are damaged \(.*\): delete that fol"
    ):
        cached_tokens(tmp_path / "tokens", twice)


def test_a_word_that_became_another_is_noticed(tmp_path):
    cached_tokens(tmp_path / "tokens", encode)
    file = tmp_path / "tokens" / "vocabulary.json"
    file.write_text(file.read_text().replace('"cat"', '"bat"'))
    assert "bat" in json.loads(file.read_text())["symbols"]
    with pytest.raises(ValueError, match=r"vocabulary\.json has changed"):
        cached_tokens(tmp_path / "tokens", twice)


def test_a_file_in_place_of_the_folder_is_damage(tmp_path):
    (tmp_path / "tokens").touch()
    with pytest.raises(ValueError, match=r"are damaged .*: delete that folder, and the next run"):
        cached_tokens(tmp_path / "tokens", twice)


def test_a_deleted_folder_is_encoded_again(tmp_path):
    cached_tokens(tmp_path / "tokens", lambda: Encoded({"train": np.arange(9)}, VOCABULARY))
    for file in (tmp_path / "tokens").iterdir():
        file.unlink()
    (tmp_path / "tokens").rmdir()
    assert_same(cached_tokens(tmp_path / "tokens", encode))

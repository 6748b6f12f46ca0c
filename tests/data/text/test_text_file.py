import logging

import pytest
from tensorflow_datasets.core.utils.shard_utils import ShardConfig

from deqjax.data._prepare import prepared
from deqjax.data._read import read_texts
from deqjax.data.text import _text_file
from deqjax.data.text._text_file import TextFile, split_text

TEXT = "".join(f"{number} → {number**2} ≈ π·{number}\r\n" for number in range(200))


def prepare(directory, text=TEXT, fractions=(0.5, 0.25, 0.25)):
    return prepared(TextFile, directory=directory, text=text, fractions=fractions)


def read(builder):
    return {s: b"".join(read_texts(builder, s)).decode() for s in builder.info.splits}


# Splitting


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        ((0.9, 0.1, 0.0), {"train": 17, "validation": 2}),
        ((0.8, 0.1, 0.1), {"train": 15, "validation": 2, "test": 2}),
        ((0.6, 0.3, 0.1), {"train": 11, "validation": 6, "test": 2}),
        ((0.5, 0.0, 0.5), {"train": 9, "test": 10}),
        ((1, 0, 0), {"train": 19}),
    ],
)
def test_splits_are_cut_in_the_order_of_the_text(fractions, sizes):
    text = "abcdefghijklmnopqrs"
    splits = split_text(text, fractions)
    assert {split: len(part) for split, part in splits.items()} == sizes
    assert "".join(splits.values()) == text


@pytest.mark.parametrize(
    "fractions",
    [
        (0.9, 0.2, 0.0),
        (0.5, 0.25, 0.2),
        (1.5, -0.5, 0.0),
        (0.0, 0.5, 0.5),
        (float("nan"), 0.5, 0.5),
        (0.9, 0.1),
    ],
)
def test_what_are_no_shares_is_refused(fractions):
    with pytest.raises(ValueError, match=r"fractions must be the shares of .*: got \("):
        split_text("a text", fractions)


def test_a_text_too_short_for_a_split_is_refused():
    with pytest.raises(ValueError, match="3 characters leaves none for the validation split"):
        split_text("abc", (0.9, 0.05, 0.05))


# Preparing


def test_examples_keep_their_order_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(_text_file, "_CHARACTERS_IN_EXAMPLE", 7)
    monkeypatch.setattr(ShardConfig, "min_shard_size", 1000)
    builder = prepare(tmp_path)
    assert builder.info.splits["train"].num_shards > 2
    assert builder.info.splits["train"].num_examples > 100
    assert read(builder) == split_text(TEXT, (0.5, 0.25, 0.25))


def test_an_example_holds_less_than_a_megabyte(tmp_path):
    builder = prepare(tmp_path, text="🙂" * 600_000, fractions=(1.0, 0.0, 0.0))
    sizes = [len(text) for text in read_texts(builder, "train")]
    assert (sum(sizes), max(sizes) < 2**20) == (2_400_000, True)


def test_a_split_larger_than_tfds_can_sort_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_text_file, "_BYTES_IN_SPLIT", 100)
    with pytest.raises(ValueError, match="the train split has 101 bytes, but at most 100 can be"):
        prepare(tmp_path, text="x" * 101, fractions=(1.0, 0.0, 0.0))


def test_a_split_of_fraction_zero_is_not_there(tmp_path):
    builder = prepare(tmp_path, fractions=(0.9, 0.1, 0.0))
    with pytest.raises(ValueError, match="has no split 'test', only train, validation: choose"):
        read_texts(builder, "test")


def test_preparing_a_text_says_nothing(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        prepare(tmp_path)
        prepare(tmp_path)
    assert (capfd.readouterr(), caplog.messages) == (("", ""), [])


@pytest.mark.parametrize(
    "change", [{"text": TEXT.replace("7", "8")}, {"fractions": (0.25, 0.5, 0.25)}]
)
def test_another_text_or_other_fractions_are_another_data_set(tmp_path, change):
    first, other = prepare(tmp_path), prepare(tmp_path, **change)
    assert first.data_dir != other.data_dir
    assert read(first) == split_text(TEXT, (0.5, 0.25, 0.25))
    assert read(other) != read(first)


def test_equal_fractions_of_another_type_are_the_same_data_set(tmp_path):
    whole, real = (
        TextFile(text=TEXT, fractions=fractions, data_dir=tmp_path)
        for fractions in ((1, 0, 0), (1.0, 0.0, 0.0))
    )
    assert whole.data_dir == real.data_dir

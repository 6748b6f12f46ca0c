import dataclasses
import itertools
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from deqjax.data import Windows, evaluation_batches, load_bytes, train_batches
from deqjax.data.text._stdlib_corpus import split_of

SIZES = {"length": 10, "batch_size": 4}  # 23 windows: 5 batches an epoch, 3 windows left out


def take(batches, count):
    return np.stack(list(itertools.islice(batches, count)))


def window_numbers(batches):
    """Which windows of the fixture `tokens` are in `batches`, from their first byte."""
    return np.asarray(batches)[..., 0] // 10


# Reading the corpus


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_is_its_files_each_ended_by_a_zero_byte(library, tmp_path, split):
    files = [library[path] for path in sorted(library) if split_of(path) == split]
    text = load_bytes(split, directory=tmp_path / "data").tobytes()
    assert text == b"".join(file + b"\0" for file in files)


def test_the_tiny_library_has_files_in_every_split(library):
    assert {split_of(path) for path in library} == {"train", "validation", "test"}


@pytest.mark.usefixtures("library")
def test_bytes_do_not_depend_on_the_directory(tmp_path):
    first, second = (load_bytes("train", directory=tmp_path / name) for name in ("a", "b"))
    np.testing.assert_array_equal(first, second)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no split 'valid': choose one of train, validation, test"):
        load_bytes("valid", directory=tmp_path)


def flip_a_bit(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 4]) + content[101:]


def cut_at_a_block(content: bytes) -> bytes:
    return content[: 2**16]


def cut_short(content: bytes) -> bytes:
    return content[:1000]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("damage", [flip_a_bit, cut_at_a_block, cut_short])
def test_a_damaged_file_is_refused(tmp_path, damage):
    load_bytes("train", directory=tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*-train.array_record*")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"is damaged .*: delete that folder"):
        load_bytes("train", directory=tmp_path / "data")


@pytest.mark.usefixtures("library")
def test_a_missing_file_is_refused(tmp_path):
    load_bytes("train", directory=tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*-train.array_record*")
    file.unlink()
    with pytest.raises(ValueError, match=r"is damaged .*: delete that folder"):
        load_bytes("train", directory=tmp_path / "data")


@pytest.mark.usefixtures("library")
def test_a_damaged_name_of_the_files_is_refused(tmp_path):
    load_bytes("train", directory=tmp_path / "data")
    (description,) = (tmp_path / "data").rglob("dataset_info.json")
    description.write_text(description.read_text().replace("{SPLIT}", "{SPLYT}"))
    with pytest.raises(ValueError, match=r"is damaged \(Could not format .*: delete that folder"):
        load_bytes("train", directory=tmp_path / "data")


@pytest.fixture(scope="session")
def real_corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    directory = tmp_path_factory.mktemp("prepared")
    splits = ("train", "validation", "test")
    return {split: load_bytes(split, directory=directory) for split in splits}


def test_the_real_library_gives_megabytes_in_about_ninety_five_and_five_percent(real_corpus):
    sizes = np.array([tokens.size for tokens in real_corpus.values()])
    assert sizes.sum() > 5_000_000
    np.testing.assert_allclose(sizes / sizes.sum(), [0.90, 0.05, 0.05], atol=0.02)


def test_a_file_of_the_real_library_is_whole_and_in_one_split(real_corpus):
    document = b"\0" + Path(dataclasses.__file__).read_bytes() + b"\0"
    found = [tokens.tobytes().count(document) for tokens in real_corpus.values()]
    assert sorted(found) == [0, 0, 1]


# Training


def test_the_same_seed_gives_the_same_batches(tokens):
    first, second = (take(train_batches(tokens, **SIZES, seed=7), 12) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_order(tokens):
    first, second = (take(train_batches(tokens, **SIZES, seed=seed), 5) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_the_second_epoch_of_a_seed_is_not_the_first_of_the_next(tokens):
    second_epoch = take(train_batches(tokens, **SIZES, seed=0), 10)[5:]
    assert not np.array_equal(second_epoch, take(train_batches(tokens, **SIZES, seed=1), 5))


def test_a_batch_holds_windows_of_int32(tokens):
    batch = next(train_batches(tokens, **SIZES, seed=0))
    rows = Windows(tokens, 10)[window_numbers(batch)]
    np.testing.assert_array_equal(batch, rows, strict=True)


def test_no_window_comes_twice_in_an_epoch(tokens):
    epochs = window_numbers(take(train_batches(tokens, **SIZES, seed=0), 15)).reshape(3, 20)
    assert [len(set(epoch)) for epoch in epochs.tolist()] == [20, 20, 20]


def test_epochs_are_shuffled_anew_and_leave_out_other_windows(tokens):
    epochs = window_numbers(take(train_batches(tokens, **SIZES, seed=0), 15)).reshape(3, 20)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert len({frozenset(epoch) for epoch in epochs.tolist()}) == 3


@pytest.mark.parametrize("done", [0, 3, 5, 13])  # before the first, amid, between and amid epochs
def test_an_orbax_checkpoint_resumes_at_the_very_next_batch(tokens, tmp_path, done):
    batches = train_batches(tokens, **SIZES, seed=5)
    for _ in range(done):
        next(batches)
    state = {"weights": np.ones(3, np.float32)}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(
            done,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(batches)
            ),
        )
    expected = take(batches, 12)

    resumed = train_batches(tokens, **SIZES, seed=5)
    next(resumed)  # a position of its own, which the restored one replaces
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.restore(
            done,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(state),
                data=grain.checkpoint.CheckpointRestore(resumed),
            ),
        )
    np.testing.assert_array_equal(take(resumed, 12), expected)


def test_a_state_taken_by_hand_resumes_too(tokens):
    batches = train_batches(tokens, **SIZES, seed=5)
    take(batches, 7)
    state, expected = batches.get_state(), take(batches, 7)
    resumed = train_batches(tokens, **SIZES, seed=5)
    resumed.set_state(state)
    np.testing.assert_array_equal(take(resumed, 7), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"length": 231}, "231 tokens, but one window of length 231 needs 232"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 24}, "batch_size 24 is larger than the 23 windows of length 10"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"process_index": 2, "process_count": 2}, "process_index must lie in 0 to .* got 2 of 2"),
        ({"process_count": 3}, "3 processes cannot share a batch of 4 rows evenly"),
    ],
)
def test_arguments_that_cannot_train_are_refused(tokens, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_batches(tokens, **{**SIZES, "seed": 0, **change})


# Evaluation


def test_evaluation_sees_the_windows_in_order_and_drops_the_last_ones(tokens):
    numbers = window_numbers(list(evaluation_batches(tokens, **SIZES)))
    np.testing.assert_array_equal(numbers, np.arange(20).reshape(5, 4))


def test_a_limited_evaluation_is_spread_over_the_split(tokens):
    numbers = window_numbers(list(evaluation_batches(tokens, **SIZES, limit=2)))
    np.testing.assert_array_equal(numbers, [[0, 2, 5, 8], [11, 14, 17, 20]])


@pytest.mark.parametrize("limit", [5, 6, 100])
def test_a_limit_beyond_the_split_changes_nothing(tokens, limit):
    limited = list(evaluation_batches(tokens, **SIZES, limit=limit))
    np.testing.assert_array_equal(limited, list(evaluation_batches(tokens, **SIZES)))


def test_evaluation_batches_are_int32(tokens):
    batch = next(evaluation_batches(tokens, **SIZES))
    assert (batch.dtype, batch.shape) == (np.int32, (4, 11))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"batch_size": 24}, "batch_size 24 is larger than the 23 windows of length 10"),
        ({"limit": 0}, "limit must be at least 1 batch, or None for all; got 0"),
    ],
)
def test_arguments_that_cannot_evaluate_are_refused(tokens, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluation_batches(tokens, **{**SIZES, **change})


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
def test_tokens_of_every_integer_type_give_the_same_batches(dtype):
    tokens = np.arange(101, dtype=np.uint8)
    expected = take(train_batches(tokens, **SIZES, seed=3), 6)
    same = take(train_batches(tokens.astype(dtype), **SIZES, seed=3), 6)
    np.testing.assert_array_equal(same, expected, strict=True)

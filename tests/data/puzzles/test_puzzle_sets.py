import hashlib
import itertools

import numpy as np
import pytest

from deqjax.data import DataError, check_solution, load_puzzles
from deqjax.data.puzzles import _load, _request
from deqjax.data.puzzles._maze_kind import maze_kind
from deqjax.data.puzzles._sudoku_kind import sudoku_kind

SPLITS = ("train", "validation", "test")
KINDS = [
    ("sudoku4", {}),
    ("sudoku6", {}),
    ("sudoku9", {"difficulty": "medium"}),
    ("mazes", {"size": 9}),
    ("prefix_sums", {"size": 12}),
]


def load(name, directory, **options):
    return load_puzzles(name, **{"count": 40, "directory": directory} | options)


def boards(puzzles, split):
    return {row.tobytes() for row in puzzles.arrays(split)["inputs"]}


def same(some, others):
    return all(
        (some.arrays(split)[part] == others.arrays(split)[part]).all()
        for split in SPLITS
        for part in ("inputs", "targets")
    )


# Rows


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_every_split_has_its_rows_and_their_solutions(name, options, prepared_in):
    puzzles = load(name, prepared_in, **options)
    assert [len(getattr(puzzles, split)) for split in SPLITS] == [40, 4, 4]
    for split in SPLITS:
        rows = [getattr(puzzles, split)[number] for number in range(4)]
        assert {(value.shape, value.dtype) for row in rows for value in row.values()} == {
            ((puzzles.height * puzzles.width,), np.dtype(np.int32))
        }
        inputs, targets = (np.stack([row[part] for row in rows]) for part in ("inputs", "targets"))
        assert check_solution(name, inputs, targets).all()
        whole = puzzles.arrays(split)
        assert check_solution(name, whole["inputs"], whole["targets"]).all()
        assert set(np.unique(whole["targets"])) <= set(range(1, puzzles.tokens))
        assert len(boards(puzzles, split)) == len(whole["inputs"])


def test_what_is_evaluated_is_never_changed(prepared_in):
    puzzles = load("sudoku4", prepared_in)
    for split in ("validation", "test"):
        rows = getattr(puzzles, split)
        for number, inputs in enumerate(puzzles.arrays(split)["inputs"]):
            assert (rows[number]["inputs"] == inputs).all()
    assert load("sudoku4", prepared_in, augment=False).identity != puzzles.identity
    plain = load("sudoku4", prepared_in, augment=False).train
    kept = [
        (plain[n]["inputs"] == row).all() for n, row in enumerate(puzzles.arrays("train")["inputs"])
    ]
    assert all(kept)


@pytest.mark.parametrize("name", ["sudoku4", "sudoku9", "mazes"])
def test_training_puzzles_are_changed_anew_in_every_epoch(name, prepared_in):
    options = {"sudoku9": {"difficulty": "medium"}, "mazes": {"size": 9}}.get(name, {})
    puzzles = load(name, prepared_in, **options)
    rows = puzzles.train.repeat(3)
    drawn = [rows[number] for number in range(120)]
    inputs, targets = (np.stack([row[part] for row in drawn]) for part in ("inputs", "targets"))
    assert check_solution(name, inputs, targets).all()
    assert len(np.unique(inputs, axis=0)) > 90
    again = load(name, prepared_in, **options).train.repeat(3)
    assert all((again[n]["inputs"] == inputs[n]).all() for n in range(0, 120, 7))
    # which of a puzzle's forms it is does not matter to what the split is
    kind = maze_kind(9) if name == "mazes" else sudoku_kind(int(name[-1]))
    plain = puzzles.arrays("train")["inputs"].astype(np.uint8)
    marks = kind.signature(plain)
    assert (kind.signature(inputs.astype(np.uint8)) == np.tile(marks, 3)).all()


def test_batches_go_on_where_they_were_left(prepared_in):
    def batches():
        rows = load("sudoku4", prepared_in).train.seed(5).shuffle().batch(8).repeat()
        return iter(rows.to_iter_dataset())

    first = batches()
    drawn = [next(first) for _ in range(4)]
    state = first.get_state()
    drawn += [next(first) for _ in range(4)]
    second = batches()
    second.set_state(state)
    for batch in drawn[4:]:
        assert (next(second)["inputs"] == batch["inputs"]).all()


def test_puzzles_are_printed_as_one_knows_them(prepared_in):
    puzzles = load("sudoku4", prepared_in)
    assert puzzles.text([1, 2, 3, 4] * 3 + [5, 0, 9, -1]) == ".123\n.123\n.123\n4???"
    assert (puzzles.tokens, puzzles.height, puzzles.width) == (6, 4, 4)
    mazes = load("mazes", prepared_in, size=9)
    picture = mazes.text(mazes.arrays("test")["targets"][0])
    assert set(picture) == set("# SGo\n")
    assert [len(line) for line in picture.split("\n")] == [9] * 9
    bits = load("prefix_sums", prepared_in, size=12)
    assert bits.text([1, 2] * 6) == "01" * 6
    with pytest.raises(
        DataError, match=r"'prefix_sums' has 12 cells, got tokens of shape \(1, 12\)"
    ):
        bits.text([[1, 2] * 6])


# Splits


def canonical(puzzle):
    """The least of all that symmetries make of a puzzle of 4 x 4 cells, by trying all of them."""
    lines = [
        [2 * band + line for band, turned in zip(bands, orders, strict=True) for line in turned]
        for bands in itertools.permutations((0, 1))
        for orders in itertools.product([(0, 1), (1, 0)], repeat=2)
    ]
    forms = []
    for board in (puzzle.reshape(4, 4), puzzle.reshape(4, 4).T):
        for rows, columns in itertools.product(lines, lines):
            names = {1: 1}
            cells = board[np.ix_(rows, columns)].ravel().tolist()
            forms.append(tuple(names.setdefault(cell, len(names) + 1) for cell in cells))
    return min(forms)


@pytest.mark.parametrize("difficulty", ["hard", "mixed"])
def test_no_symmetry_makes_a_held_out_puzzle_of_a_training_one(difficulty, prepared_in):
    puzzles = load("sudoku4", prepared_in, difficulty=difficulty, count=120)
    forms = {split: {canonical(row) for row in puzzles.arrays(split)["inputs"]} for split in SPLITS}
    for some, others in itertools.combinations(SPLITS, 2):
        assert not forms[some] & forms[others]
    changed = {canonical(puzzles.train[number]["inputs"]) for number in range(0, 120, 4)}
    assert changed <= forms["train"]
    assert len(forms["validation"]) > 1


@pytest.mark.parametrize(("name", "options"), KINDS[1:])
def test_splits_have_no_puzzle_in_common(name, options, prepared_in):
    puzzles = load(name, prepared_in, **options)
    for some, others in itertools.combinations(SPLITS, 2):
        assert not boards(puzzles, some) & boards(puzzles, others)


def test_mixed_puzzles_are_of_each_difficulty_equally_often(prepared_in):
    puzzles = load("sudoku6", prepared_in, count=31)
    for split, shares in [("train", (11, 10)), ("validation", (1, 1)), ("test", (1, 1))]:
        clues = (puzzles.arrays(split)["inputs"] > 1).sum(axis=1)
        assert ((clues == 18).sum(), (clues == 13).sum()) >= shares
    easy = load("sudoku6", prepared_in, difficulty="easy", count=10)
    assert ((easy.arrays("train")["inputs"] > 1).sum(axis=1) == 18).all()


def test_half_of_all_there_is_can_be_had(prepared_in):
    puzzles = load("prefix_sums", prepared_in, size=4, count=6)
    assert [len(boards(puzzles, split)) for split in SPLITS] == [6, 1, 1]
    with pytest.raises(DataError, match="count 7 and 2 puzzles held out are more than half of the"):
        load("prefix_sums", prepared_in, size=4, count=7)


def test_strings_may_be_long(prepared_in):
    puzzles = load("prefix_sums", prepared_in, size=2000, count=2)
    assert puzzles.arrays("test")["targets"].shape == (1, 2000)


# Preparing


def test_the_same_seed_gives_the_same_puzzles_everywhere(prepared_in, tmp_path):
    first = load("sudoku4", prepared_in)
    assert same(load("sudoku4", tmp_path), first)
    other = load("sudoku4", tmp_path, seed=1)
    assert other.identity != first.identity
    assert boards(other, "train") != boards(first, "train")


@pytest.mark.parametrize(
    ("kind", "expected"),
    list(zip(KINDS, ["ddbd9396", "776c3ddf", "96bc8d13", "d2222975", "b579b1a4"], strict=True)),
    ids=[name for name, _ in KINDS],
)
def test_puzzles_stay_what_they_are(kind, expected, prepared_in):
    """What was trained on some goes on with the same ones, on any machine and after any update."""
    name, options = kind
    puzzles = load(name, prepared_in, **options)
    digest = hashlib.sha256()
    for split in SPLITS:
        for values in puzzles.arrays(split).values():
            digest.update(values.astype("<i4").tobytes())
    assert digest.hexdigest()[:8] == expected


def test_prepared_puzzles_are_not_made_again(prepared_in, monkeypatch, capfd):
    first = load("mazes", prepared_in, size=9)
    monkeypatch.setattr(_load, "generate", None)
    assert same(load("mazes", prepared_in, size=9), first)
    with pytest.raises(TypeError):
        load("mazes", prepared_in, size=9, seed=1)
    assert capfd.readouterr() == ("", "")


def test_damaged_puzzles_are_refused(tmp_path):
    load("prefix_sums", tmp_path)
    (file,) = tmp_path.glob("*/*/*/*-train.array_record*")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"is damaged .*: delete that folder, and the next run"):
        load("prefix_sums", tmp_path)


# Arguments


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("sudok4", {}, "no puzzles 'sudok4'; did you mean 'sudoku4'"),
        ("chess", {}, "no puzzles 'chess'; there are sudoku4"),
        ("sudoku4", {"size": 4}, "'sudoku4' takes no size, got 4"),
        ("maze_hard", {"size": 30}, "'maze_hard' takes no size, got 30"),
        ("mazes", {"size": 8}, "of 'mazes' must be an odd number in 7 to 255, got 8"),
        ("mazes", {"size": 5}, "of 'mazes' must be an odd number in 7 to 255, got 5"),
        ("prefix_sums", {"size": 0}, "of 'prefix_sums' must be in 1 to 65536, got 0"),
        ("prefix_sums", {"difficulty": "hard"}, "no difficulty 'hard': choose one of mixed"),
        ("mazes", {"difficulty": "extreme"}, "choose one of easy, medium, hard, mixed"),
        ("maze_hard", {"difficulty": "hard"}, "'maze_hard' takes no difficulty, got 'hard'"),
        ("sudoku9", {"count": 0}, "count must be at least 1, got 0"),
        ("sudoku9", {"count": 10**8}, "count 100000000 of 81 cells are more than the"),
        (
            "sudoku4",
            {"count": 50_000, "difficulty": "hard"},
            "half of the 85632 that 'sudoku4' has",
        ),
        ("sudoku9", {"seed": -1}, "seed must lie in 0 to 4294967295, got -1"),
        ("sudoku9", {"manual_directory": "files"}, "'sudoku9' takes no manual_directory, got"),
    ],
)
def test_wrong_arguments_are_refused_at_once(name, options, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        load(name, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_an_unknown_split_has_no_arrays(prepared_in):
    with pytest.raises(DataError, match="no split 'dev': choose one of train, validation, test"):
        load("sudoku4", prepared_in).arrays("dev")


def test_puzzles_that_run_out_are_missed(monkeypatch, tmp_path):
    few = sudoku_kind(4)._replace(
        draw=lambda grade, count, random: (np.eye(16, dtype=np.uint8),) * 2
    )
    monkeypatch.setattr(_request, "sudoku_kind", lambda side: few)
    with pytest.raises(
        DataError, match="of the 48 puzzles of 'sudoku4' are not found: there are too"
    ):
        load("sudoku4", tmp_path)

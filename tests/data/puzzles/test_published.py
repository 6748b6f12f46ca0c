import csv

import numpy as np
import pytest

from deqjax.data import DataError, check_solution, load_puzzles
from deqjax.data.puzzles import _csv_files
from deqjax.data.puzzles._maze_kind import maze_kind
from deqjax.data.puzzles._sudoku_kind import sudoku_kind

COUNT = 40  # puzzles of each file
KINDS = {
    "sudoku_extreme": (sudoku_kind(9), "?.123456789", "sudoku-extreme"),
    "maze_hard": (maze_kind(30), "?# SGo", "maze-30x30-hard-1k"),
}


@pytest.fixture(scope="module")
def rows():
    """By name, rows of question and answer, as the files have them."""
    random = np.random.RandomState(0)
    puzzles, solutions = sudoku_kind(9).draw("medium", 2 * COUNT, random)
    mazes, ways = maze_kind(29).draw("hard", 4 * COUNT, random)
    # 30 x 30 cells: one more line of walls
    wide = [
        np.pad(part[: 2 * COUNT].reshape(-1, 29, 29), ((0, 0), (0, 1), (0, 1)), constant_values=1)
        for part in (mazes, ways)
    ]
    made = {
        "sudoku_extreme": (puzzles, solutions),
        "maze_hard": tuple(part.reshape(-1, 900) for part in wide),
    }
    return {
        name: [
            tuple("".join(KINDS[name][1][token] for token in part) for part in pair)
            for pair in zip(*arrays, strict=True)
        ]
        for name, arrays in made.items()
    }


@pytest.fixture
def folder(rows, tmp_path):
    """A folder with the files of both, as downloaded."""
    for name, pairs in rows.items():
        home = tmp_path / "files" / KINDS[name][2]
        home.mkdir(parents=True)
        for file, part in (("train", pairs[:COUNT]), ("test", pairs[COUNT:])):
            with (home / f"{file}.csv").open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["source", "question", "answer", "rating"])
                writer.writerows(("made", *pair, 7) for pair in part)
    return tmp_path / "files"


def load(name, folder, **options):
    options = {"count": 30, "directory": folder.parent / "prepared"} | options
    return load_puzzles(name, manual_directory=folder, **options)


def texts(name, puzzles, split):
    symbols = KINDS[name][1]
    arrays = puzzles.arrays(split)
    return [
        tuple("".join(symbols[token] for token in row) for row in pair)
        for pair in zip(arrays["inputs"], arrays["targets"], strict=True)
    ]


@pytest.mark.parametrize("name", KINDS)
def test_published_files_are_read(name, folder, rows):
    puzzles = load(name, folder)
    read = {split: texts(name, puzzles, split) for split in ("train", "validation", "test")}
    assert read["test"] == rows[name][COUNT:]
    assert (len(read["train"]), len(read["validation"])) == (30, 3)
    assert {*read["train"], *read["validation"]} < set(rows[name][:COUNT])
    assert not set(read["train"]) & set(read["validation"])
    changed = [puzzles.train[number] for number in range(30)]
    assert all(check_solution(name, row["inputs"], row["targets"]) for row in changed)
    assert (puzzles.tokens, puzzles.height) == (KINDS[name][0].tokens, KINDS[name][0].height)


def test_once_prepared_the_files_are_not_needed(folder):
    first = load("maze_hard", folder)
    (folder / "maze-30x30-hard-1k" / "train.csv").unlink()
    again = load("maze_hard", folder)
    assert (again.arrays("train")["inputs"] == first.arrays("train")["inputs"]).all()


def test_the_seed_chooses_and_chunks_do_not(folder, monkeypatch):
    first = load("sudoku_extreme", folder, count=5)
    other = load("sudoku_extreme", folder, count=5, seed=1)
    assert texts("sudoku_extreme", first, "train") != texts("sudoku_extreme", other, "train")
    monkeypatch.setattr(_csv_files, "_READ_AT_ONCE", 7)
    chunked = load("sudoku_extreme", folder, count=5, directory=folder.parent / "others")
    for split in ("train", "validation", "test"):
        assert texts("sudoku_extreme", chunked, split) == texts("sudoku_extreme", first, split)


def test_files_may_lie_in_the_folder_itself_and_have_other_columns(folder, rows):
    home = folder / "sudoku-extreme"
    for file in ("train", "test"):
        with (home / f"{file}.csv").open(newline="") as stream:
            columns = [(row["answer"], row["question"]) for row in csv.DictReader(stream)]
        lines = ["answer,question", *(f"{a},{q.replace('.', '0')}" for a, q in columns)]
        (home / f"{file}.csv").write_text("\r\n".join(lines))
    assert (
        texts("sudoku_extreme", load("sudoku_extreme", home), "test")
        == (rows["sudoku_extreme"][COUNT:])
    )


def test_missing_files_are_named_with_the_way_to_them(folder):
    (folder / "sudoku-extreme" / "test.csv").unlink()
    with pytest.raises(DataError) as caught:
        load("sudoku_extreme", folder)
    assert str(caught.value) == (
        "the files of 'sudoku_extreme' are missing: download train.csv and test.csv (800 MB) of "
        "the data set sapientinc/sudoku-extreme from the Hugging Face hub into "
        f"{str(folder / 'sudoku-extreme')!r}"
    )


def test_without_a_manual_directory_they_are_looked_for_beside_the_prepared_ones(tmp_path):
    with pytest.raises(DataError, match="downloads/manual/maze-30x30-hard-1k'"):
        load_puzzles("maze_hard", directory=tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("train", "question", "puzzle", "line 1 of .* is damaged .it does not name the columns"),
        ("train", "5", "", "line 5 of '.*train.csv' is damaged .a puzzle of 80 cells, not 81"),
        ("test", "5", "x", "line 5 of '.*test.csv' is damaged .there are symbols that no puzzle"),
        ("test", "5", "é", "line 5 of '.*test.csv' is damaged .there are symbols that no puzzle"),
        ("test", "5", "5" * 200_000, "line 5 of '.*test.csv' is damaged .field larger than"),
        ("test", "5", ",", "line 5 of '.*test.csv' is damaged .there are 5 columns, not 4"),
        ("test", "5", "8", "line 5 of '.*test.csv' is damaged .its answer does not solve"),
        ("test", "5", "\udcff", "line 5 of '.*test.csv' is damaged .there are symbols"),
    ],
)
def test_a_damaged_line_is_named(file, old, new, sentence, folder):
    path = folder / "sudoku-extreme" / f"{file}.csv"
    lines = path.read_text().splitlines()
    if old == "question":
        lines[0] = lines[0].replace(old, new)
    else:  # in the answer, the last digit 5
        head, mark, tail = lines[4].rpartition(old)
        assert mark
        lines[4] = head + new + tail
    path.write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(DataError, match=sentence):
        load("sudoku_extreme", folder)


def test_a_file_without_puzzles_is_refused(folder):
    (folder / "sudoku-extreme" / "test.csv").write_text("question,answer\n")
    with pytest.raises(DataError, match=r"line 2 of '.*' is damaged \(there is no puzzle\)"):
        load("sudoku_extreme", folder)


def test_more_puzzles_than_the_file_has_are_refused(folder):
    with pytest.raises(
        DataError, match="has 40 puzzles that differ, fewer than the 55 for training"
    ):
        load("sudoku_extreme", folder, count=50)

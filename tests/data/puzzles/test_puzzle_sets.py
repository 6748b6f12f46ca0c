import numpy as np
import pytest

from deqjax.data import check_solution, load_puzzles

KINDS = [
    ("sudoku4", {}),
    ("sudoku6", {}),
    ("sudoku9", {"difficulty": "medium"}),
    ("mazes", {"size": 9}),
    ("prefix_sums", {"size": 12}),
]


@pytest.fixture(scope="module")
def prepared_in(tmp_path_factory):
    return tmp_path_factory.mktemp("puzzles")


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_every_split_has_its_rows_and_their_solutions(name, options, prepared_in):
    puzzles = load_puzzles(name, count=40, directory=prepared_in, **options)
    assert [len(puzzles.arrays(s)["inputs"]) for s in ("train", "validation", "test")] == [40, 4, 4]
    for split in ("train", "validation", "test"):
        rows = [getattr(puzzles, split)[number] for number in range(4)]
        assert {(v.shape, v.dtype) for row in rows for v in row.values()} == {
            ((puzzles.height * puzzles.width,), np.dtype(np.int32))
        }
        inputs, targets = (np.stack([row[k] for row in rows]) for k in ("inputs", "targets"))
        assert check_solution(name, inputs, targets).all()
        whole = puzzles.arrays(split)
        assert check_solution(name, whole["inputs"], whole["targets"]).all()
        assert set(np.unique(whole["targets"])) <= set(range(1, puzzles.tokens))

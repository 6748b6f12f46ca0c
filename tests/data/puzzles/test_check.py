import numpy as np
import pytest

from deqjax.data import DataError, check_solution

SUDOKU = "12343412" + "21434321"
SUDOKU_SIX = "123456" + "456123" + "234561" + "561234" + "345612" + "612345"
HEAD = "#######" + "#S  # #" + "### # #" + "# # # #"
MAZE = HEAD + "# #   #" + "#    G#" + "#######"
MARKED_HEAD = "#######" + "#Soo# #" + "###o# #" + "# #o# #"
RING = "#####" + "#S G#" + "# # #" + "#   #" + "#####"


def digits(text):
    """Tokens of a Sudoku, . for a blank cell."""
    return np.array([".123456789".index(symbol) + 1 for symbol in text])


def maze(picture):
    """Tokens of a maze, o for the way."""
    return np.array(["# SGo".index(symbol) + 1 for symbol in picture])


def changed(tokens, cell, token):
    result = tokens.copy()
    result[cell] = token
    return result


# Sudoku


@pytest.mark.parametrize("text", [SUDOKU, SUDOKU_SIX])
def test_a_sudoku_is_solved_with_every_digit_everywhere(text):
    name = f"sudoku{round(len(text) ** 0.5)}"
    solution = digits(text)
    puzzle = solution.copy()
    puzzle[::3] = 1
    assert check_solution(name, puzzle, solution)
    for cell in range(len(text)):
        wrong = changed(solution, cell, solution[cell] % 5 + 2)
        assert not check_solution(name, puzzle, wrong)
    assert not check_solution(name, puzzle, puzzle)


def test_a_clue_must_be_kept():
    solution = digits(SUDOKU)
    puzzle = changed(np.ones(16, int), 0, 3)
    assert not check_solution("sudoku4", puzzle, solution)
    swapped = digits(SUDOKU.translate(str.maketrans("12", "21")))
    assert check_solution("sudoku4", puzzle, swapped)


def test_boxes_count_too():
    blank = np.ones(16, int)
    latin = digits("1234" + "2341" + "3412" + "4123")
    assert not check_solution("sudoku4", blank, latin)
    # right by boxes of 2 x 3 cells, not of 3 x 2
    rows = digits(SUDOKU_SIX).reshape(6, 6)
    assert not check_solution("sudoku6", np.ones(36, int), rows.T.ravel())


# Mazes


@pytest.mark.parametrize("end", ["# #ooo##    G#", "# #oo ##   oG#", "# #o  ##  ooG#"])
def test_any_shortest_way_solves_a_maze(end):
    assert check_solution("mazes", maze(MAZE), maze(MARKED_HEAD + end + "#######"))


@pytest.mark.parametrize(
    "end",
    [
        "# #o  ##   oG#",  # a gap
        "# #oo ##  ooG#",  # two ways
        "# #o  ##o ooG#",  # a cell apart
        "# #o  ##  ooo#",  # no goal
        "# #o  ##  oo #",
        "#o#o  ##  ooG#",  # a cell of its own
        "# oo  ##  ooG#",  # a wall
        "# #o  ##SoooG#",  # a second start
    ],
)
def test_what_is_no_way_does_not(end):
    assert not check_solution("mazes", maze(MAZE), maze(MARKED_HEAD + end + "#######"))
    assert not check_solution("mazes", maze(MAZE), maze(MAZE))


def test_a_longer_way_does_not_solve_a_maze():
    assert check_solution("maze_hard", maze(RING), maze(RING.replace("S G", "SoG")))
    around = "#####" + "#S G#" + "#o#o#" + "#ooo#" + "#####"
    assert not check_solution("maze_hard", maze(RING), maze(around))


def test_a_maze_without_a_way_has_no_solution():
    closed = maze("#####" + "#S###" + "###G#" + "#   #" + "#####")
    assert not check_solution("mazes", closed, closed)


# Prefix sums, and all


def test_prefix_sums_are_parities():
    bits = np.array([1, 2, 2, 1, 2, 1, 1, 2])
    sums = np.array([1, 2, 1, 1, 2, 2, 2, 1])
    assert check_solution("prefix_sums", bits, sums)
    for cell in range(8):
        assert not check_solution("prefix_sums", bits, changed(sums, cell, 3 - sums[cell]))


def test_many_are_looked_at_together():
    solution = digits(SUDOKU)
    wrong = changed(solution, 5, 2)
    answers = np.array([[solution, wrong], [wrong, solution], [solution, solution]])
    right = check_solution("sudoku4", np.ones_like(answers), answers)
    assert right.tolist() == [[True, False], [False, True], [True, True]]
    assert check_solution("sudoku_extreme", np.ones((0, 81)), np.ones((0, 81))).shape == (0,)
    empty = np.ones((0, 49), int)
    assert check_solution("mazes", empty, empty).shape == (0,)


@pytest.mark.parametrize(
    ("name", "shapes", "sentence"),
    [
        ("sudoku4", [(16,), (2, 16)], r"one shape \(\.\.\., cells\), got \(16,\) and \(2, 16\)"),
        ("sudoku4", [(), ()], "got"),
        ("sudoku4", [(36,)] * 2, "puzzles of 'sudoku4' have not 36 cells"),
        ("sudoku_extreme", [(36,)] * 2, "'sudoku_extreme' have not 36 cells"),
        ("mazes", [(50,)] * 2, "'mazes' have not 50 cells"),
        ("sudoku5", [(25,)] * 2, "no puzzles 'sudoku5'; did you mean 'sudoku"),
        ("chess", [(64,)] * 2, "no puzzles 'chess'; there are sudoku4, sudoku6"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(name, shapes, sentence):
    with pytest.raises(DataError, match=sentence):
        check_solution(name, *(np.ones(shape, int) for shape in shapes))

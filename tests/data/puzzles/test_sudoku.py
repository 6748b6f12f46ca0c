import itertools

import numpy as np
import pytest

from deqjax.data import check_solution
from deqjax.data.puzzles._sudoku_kind import sudoku_kind
from deqjax.data.puzzles.sudoku import (
    SUDOKU_BOARDS,
    candidates_of,
    count_solutions,
    sudoku_puzzles,
    sudoku_signature,
    sudoku_symmetry,
)
from deqjax.data.puzzles.sudoku._generator import solved_boards
from deqjax.data.puzzles.sudoku._solver import digits_of, is_solved, propagate

# of 4 x 4 cells, where it does not matter which digit is which
FIRST_ROW = (1, 2, 3, 4)


def is_allowed(board, digits, cell, digit):
    """Whether a digit may stand in a cell, from the rules: nothing of the solver."""
    side = board.side
    row, column = divmod(cell, side)
    for other in range(side**2):
        if digits[other] == digit and other != cell:
            its_row, its_column = divmod(other, side)
            same_box = (
                row // board.box_height == its_row // board.box_height
                and column // board.box_width == its_column // board.box_width
            )
            if row == its_row or column == its_column or same_box:
                return False
    return True


def solutions_by_hand(board, digits, limit):
    """At most so many solutions, by trying one cell after the other."""
    blank = next((cell for cell in range(board.cells) if digits[cell] == 0), None)
    if blank is None:  # clues may have been at odds with each other
        right = all(is_allowed(board, digits, cell, digits[cell]) for cell in range(board.cells))
        return [tuple(digits)] if right else []
    found = []
    for digit in range(1, board.side + 1):
        if is_allowed(board, digits, blank, digit) and len(found) < limit:
            tried = [*digits[:blank], digit, *digits[blank + 1 :]]
            found += solutions_by_hand(board, tried, limit - len(found))
    return found


@pytest.fixture(scope="module")
def boards_of_four():
    """(12, 16): the solved boards of 4 x 4 cells whose first row is 1 2 3 4."""
    found = solutions_by_hand(SUDOKU_BOARDS[4], [*FIRST_ROW, *[0] * 12], limit=100)
    return np.array(found, np.uint8)


@pytest.fixture(scope="module")
def puzzles():
    """Some puzzles by the side of their board and the clues that are left."""
    made = {}
    for side, clues in [(4, 8), (4, None), (6, 13), (6, None), (9, 30), (9, None)]:
        random = np.random.RandomState(side)
        made[side, clues] = sudoku_puzzles(SUDOKU_BOARDS[side], clues, 24, random)
    return made


# Solving


@pytest.mark.parametrize(("side", "most"), [(4, 7), (6, 14)])
def test_solutions_are_counted_as_by_hand(side, most):
    board = SUDOKU_BOARDS[side]
    random = np.random.RandomState(0)
    digits = solved_boards(board, 60, random)
    for row in digits:
        row[random.permutation(board.cells)[random.randint(4, most) :]] = 0
    digits[::5, 0] = digits[::5, 0] % side + 1  # often a contradiction
    counted = count_solutions(board, candidates_of(board, digits), limit=3)
    expected = [len(solutions_by_hand(board, row.tolist(), 3)) for row in digits]
    assert counted.tolist() == expected
    assert set(expected) >= {0, 1, 3} - ({1} if side == 6 else set())


def test_two_equal_clues_in_a_line_have_no_solution():
    board = SUDOKU_BOARDS[9]
    for cells in [(0, 8), (0, 72), (0, 20)]:
        digits = np.zeros((1, 81), np.uint8)
        digits[0, list(cells)] = 5
        assert count_solutions(board, candidates_of(board, digits)) == 0


def test_an_empty_board_has_more_solutions_than_are_asked_for():
    board = SUDOKU_BOARDS[9]
    digits = np.zeros((1, 81), np.uint8)
    assert count_solutions(board, candidates_of(board, digits), limit=50) == 50


def test_singles_decide_nothing_wrong(puzzles):
    for (side, _), (made, solutions) in puzzles.items():
        board = SUDOKU_BOARDS[side]
        left = propagate(board, candidates_of(board, made))
        assert (left & candidates_of(board, solutions)).all()
        solved = is_solved(left)
        assert (digits_of(left)[solved] == solutions[solved]).all()


# Making


def test_all_solved_boards_of_four_are_drawn(boards_of_four):
    drawn = solved_boards(SUDOKU_BOARDS[4], 4000, np.random.RandomState(0))
    assert len(np.unique(drawn, axis=0)) == 24 * len(boards_of_four) == 288


def test_puzzles_have_one_solution_and_their_clues(puzzles):
    for (side, clues), (made, solutions) in puzzles.items():
        board = SUDOKU_BOARDS[side]
        assert len(made) >= 12
        assert ((made == 0) | (made == solutions)).all()
        assert (count_solutions(board, candidates_of(board, made)) == 1).all()
        if clues is not None:
            assert ((made != 0).sum(axis=1) == clues).all()


@pytest.mark.parametrize("side", [4, 6, 9])
def test_of_a_hard_puzzle_no_clue_can_be_left_out(side, puzzles):
    board, (made, _) = SUDOKU_BOARDS[side], puzzles[side, None]
    for puzzle in made[:6]:
        clues = np.flatnonzero(puzzle)
        without = np.tile(puzzle, (len(clues), 1))
        without[np.arange(len(clues)), clues] = 0
        assert (count_solutions(board, candidates_of(board, without)) == 2).all()


def have_one_solution(solution, others):
    """(2^16,): for each choice of a board's cells, whether clues there allow no other board."""
    chosen = np.arange(2**16)
    one = np.ones(2**16, bool)
    for different in np.unique((others != solution) @ (1 << np.arange(16))):
        if different:
            one &= chosen & different != 0
    return one


def test_puzzles_of_four_are_as_many_as_is_said(boards_of_four):
    digits = np.array([(0, *order) for order in itertools.permutations(FIRST_ROW)])
    others = np.concatenate([digits[number][boards_of_four] for number in range(24)])
    chosen = np.arange(2**16)
    clues = np.array([number.bit_count() for number in range(2**16)])
    counted = {"easy": 0, "medium": 0, "hard": 0}
    for solution in boards_of_four:
        one = have_one_solution(solution, others)
        counted["easy"] += 24 * int((one & (clues == 8)).sum())
        counted["medium"] += 24 * int((one & (clues == 6)).sum())
        spare = [one[chosen & ~bit] & (chosen & bit != 0) for bit in 1 << np.arange(16)]
        counted["hard"] += 24 * int((one & ~np.any(spare, axis=0)).sum())
    assert counted == sudoku_kind(4).grades


# Symmetries


@pytest.mark.parametrize("side", [4, 6, 9])
def test_symmetries_keep_solutions_that_stay_the_only_ones(side, puzzles):
    board, (made, solutions) = SUDOKU_BOARDS[side], puzzles[side, None]
    generator = np.random.default_rng(0)
    for puzzle, solution in zip(made[:8], solutions[:8], strict=True):
        cells, digits = sudoku_symmetry(board, generator)
        moved, solved = digits[puzzle[cells]], digits[solution[cells]]
        assert (moved != puzzle).any()
        assert check_solution(f"sudoku{side}", moved + 1, solved + 1)
        assert count_solutions(board, candidates_of(board, moved[None])) == 1


def test_every_symmetry_of_four_is_drawn():
    board, generator = SUDOKU_BOARDS[4], np.random.default_rng(0)
    drawn = [sudoku_symmetry(board, generator) for _ in range(4000)]
    # 2 orders of bands, 2 within each, likewise of columns, and the diagonal; 4! of digits
    assert len({cells.tobytes() for cells, _ in drawn}) == 8 * 8 * 2
    assert len({digits.tobytes() for _, digits in drawn}) == 24


@pytest.mark.parametrize("side", [4, 6, 9])
def test_a_signature_stays_the_same_after_a_symmetry(side, puzzles):
    board, (made, _) = SUDOKU_BOARDS[side], puzzles[side, None]
    generator = np.random.default_rng(1)
    moved = []
    for puzzle in made:
        cells, digits = sudoku_symmetry(board, generator)
        moved.append(digits[puzzle[cells]])
    marks = sudoku_signature(board, made)
    assert (sudoku_signature(board, np.array(moved)) == marks).all()
    if side > 4:
        assert len(set(marks.tolist())) == len(made)


def test_signatures_tell_apart_what_no_symmetry_makes_of_each_other():
    # 13 with 4 clues, 22 with 5 and 1 with 6 are all that there are but for symmetries
    board = SUDOKU_BOARDS[4]
    made, _ = sudoku_puzzles(board, None, 3000, np.random.RandomState(0))
    assert len(np.unique(sudoku_signature(board, made))) == 36
    changed = made[:300].copy()
    changed[np.arange(300), (changed != 0).argmax(axis=1)] = 0
    assert not set(sudoku_signature(board, changed)) & set(sudoku_signature(board, made))

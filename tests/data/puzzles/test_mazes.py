import numpy as np
import pytest

from deqjax.data import check_solution
from deqjax.data.puzzles._maze_kind import maze_kind, maze_signature, maze_symmetry

SIDE = 11
WALL, START, GOAL, WAY = 1, 3, 4, 5


@pytest.fixture(scope="module")
def mazes():
    """By difficulty, mazes and their solutions, (mazes, side, side)."""
    random = np.random.RandomState(0)
    draw = maze_kind(SIDE).draw
    return {
        grade: tuple(part.reshape(-1, SIDE, SIDE) for part in draw(grade, 30, random))
        for grade in ("easy", "medium", "hard")
    }


def shortest_ways(maze):
    """The number of steps from the start to the goal, and of ways that are as short."""
    (start,), (goal,) = (list(zip(*np.nonzero(maze == end), strict=True)) for end in (START, GOAL))
    ways, steps, seen = {start: 1}, 0, {start}
    while goal not in ways:
        following = {}
        for (row, column), number in ways.items():
            for cell in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                if maze[cell] != WALL and cell not in seen:
                    following[cell] = following.get(cell, 0) + number
        ways, steps, seen = following, steps + 1, seen | set(following)
    return steps, ways[goal]


def is_tree(maze):
    """Whether there is one way between any two cells: as many passages as cells, less one."""
    free = maze != WALL
    passages = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
    return passages == free.sum() - 1


def test_mazes_have_one_shortest_way_which_is_the_target(mazes):
    for made, solved in mazes.values():
        for maze, solution in zip(made, solved, strict=True):
            steps, ways = shortest_ways(maze)
            assert (ways, (solution == WAY).sum()) == (1, steps - 1)
        assert check_solution(
            "mazes", made.reshape(len(made), -1), solved.reshape(len(made), -1)
        ).all()


@pytest.mark.parametrize(
    ("grade", "low", "high"), [("easy", 1, 11), ("medium", 11, 22), ("hard", 22, 121)]
)
def test_a_grade_says_how_long_ways_are(grade, low, high, mazes):
    steps = {shortest_ways(maze)[0] for maze in mazes[grade][0]}
    assert low <= min(steps) <= max(steps) < high
    assert len(steps) > 2


def test_mazes_are_walled_in_and_some_have_ways_around(mazes):
    for made, _ in mazes.values():
        for edge in (made[:, 0], made[:, -1], made[:, :, 0], made[:, :, -1]):
            assert (edge == WALL).all()
        trees = [is_tree(maze) for maze in made]
        assert 0 < sum(trees) < len(trees)


def test_symmetries_turn_and_reflect(mazes):
    maze, solution = (part[0].ravel() for part in mazes["medium"])
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        cells, tokens = maze_symmetry(SIDE, generator)
        moved = tokens[maze[cells]]
        assert check_solution("mazes", moved, tokens[solution[cells]])
        seen.add(moved.tobytes())
    square = maze.reshape(SIDE, SIDE)
    turned = [np.rot90(each, turns) for each in (square, square[::-1]) for turns in range(4)]
    assert seen == {each.tobytes() for each in turned}


def test_a_signature_stays_the_same_after_a_symmetry(mazes):
    made = mazes["medium"][0].reshape(-1, SIDE**2)
    generator = np.random.default_rng(0)
    moved = [maze[maze_symmetry(SIDE, generator)[0]] for maze in made]
    marks = maze_signature(SIDE, made)
    assert (maze_signature(SIDE, np.array(moved)) == marks).all()
    assert len(set(marks.tolist())) == len(made)

"""Mazes: 1 is a wall, 2 a free cell, 3 the start, 4 the goal, 5 a cell of the way between them."""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deqjax.data.puzzles._hashing import digests
from deqjax.data.puzzles._kind import PuzzleKind, Rows

LEAST_SIDE = 7
_WALL, _FREE, _START, _GOAL, _WAY = 1, 2, 3, 4, 5
_OPENED = 0.1  # of the walls that are left, in every second maze
_BOUNDS = {"easy": (0, 1), "medium": (1, 2), "hard": (2, np.inf)}

Room = int
Doors = list[set[Room]]
"""For every room, the rooms next to it that it is open to."""


def maze_kind(side: int) -> PuzzleKind:
    """Mazes of side x side cells, an odd number: rooms at odd places, with cells between them.

    A grade says how long the only shortest way is, in steps from cell to cell: shorter than the
    side ("easy"), than twice the side ("medium"), or not ("hard"). Half of the mazes are trees; in
    the others some more walls are open, so that ways lead around.
    """
    return PuzzleKind(
        symbols="# SGo",
        height=side,
        width=side,
        draw=functools.partial(_draw, side),
        signature=functools.partial(maze_signature, side),
        symmetry=functools.partial(maze_symmetry, side),
        grades=dict.fromkeys(_BOUNDS),
    )


def maze_symmetry(
    side: int, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """One of the 8 turns and reflections; tokens stay as they are."""
    return _turned(side)[generator.integers(8)], np.arange(6, dtype=np.uint8)


@functools.cache
def _turned(side: int) -> NDArray[np.intp]:
    """(8, cells): which cell comes to each place."""
    cells = np.arange(side**2).reshape(side, side)
    both = (cells, cells.T)
    return np.stack([np.rot90(each, turns).ravel() for each in both for turns in range(4)])


def maze_signature(side: int, inputs: Rows) -> NDArray[np.uint64]:
    """(mazes,): the same number for a maze however it is turned and reflected."""
    marks = np.stack([digests(inputs[:, cells]) for cells in _turned(side)])
    least: NDArray[np.uint64] = marks.min(axis=0)
    return least


def _draw(side: int, grade: str, count: int, random: np.random.RandomState) -> tuple[Rows, Rows]:
    made = [_maze(side, grade, loops=bool(number % 2), random=random) for number in range(count)]
    found = [maze for maze in made if maze is not None]
    inputs, targets = (np.array([maze[part] for maze in found], np.uint8) for part in (0, 1))
    return inputs.reshape(-1, side**2), targets.reshape(-1, side**2)


def _maze(
    side: int, grade: str, *, loops: bool, random: np.random.RandomState
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """A maze and its solution; None where it has no way of that grade from a random start."""
    rooms = side // 2
    doors = _tree(rooms, random)
    if loops:
        _open_walls(rooms, doors, random)
    start = int(random.randint(rooms**2))
    distance, ways, before = _ways_from(start, doors)
    low, high = (side * bound for bound in _BOUNDS[grade])
    length = 2 * distance  # cells between rooms are steps too
    goals = np.flatnonzero((ways == 1) & (length >= max(low, 1)) & (length < high))
    if not len(goals):
        return None
    goal = int(goals[random.randint(len(goals))])
    grid = np.full((side, side), _WALL, np.uint8)
    for room, others in enumerate(doors):
        for other in others:
            _draw_step(grid, rooms, room, other, _FREE)
    solved = grid.copy()
    room = goal
    while room != start:
        _draw_step(solved, rooms, room, before[room], _WAY)
        room = before[room]
    for picture in (grid, solved):
        picture[_place(start, rooms)] = _START
        picture[_place(goal, rooms)] = _GOAL
    return grid, solved


def _tree(rooms: int, random: np.random.RandomState) -> Doors:
    """Doors that give every room one way: a random walk that turns back at dead ends."""
    doors: Doors = [set() for _ in range(rooms**2)]
    here = int(random.randint(rooms**2))
    walk, visited = [here], {here}
    while walk:
        new = [room for room in _neighbours(walk[-1], rooms) if room not in visited]
        if not new:
            walk.pop()
            continue
        room = new[random.randint(len(new))]
        doors[walk[-1]].add(room)
        doors[room].add(walk[-1])
        visited.add(room)
        walk.append(room)
    return doors


def _open_walls(rooms: int, doors: Doors, random: np.random.RandomState) -> None:
    for room in range(rooms**2):
        for other in _neighbours(room, rooms):
            if other > room and other not in doors[room] and random.random_sample() < _OPENED:
                doors[room].add(other)
                doors[other].add(room)


def _ways_from(
    start: Room, doors: Doors
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Room]]:
    """For every room: how far it is, how many shortest ways there are, and the last room before.

    Ways are counted up to 2.
    """
    distance = np.full(len(doors), -1)
    ways = np.zeros(len(doors), np.int64)
    before = [start] * len(doors)
    distance[start], ways[start] = 0, 1
    ring = [start]
    while ring:
        following = []
        for room in ring:
            for other in sorted(doors[room]):
                if distance[other] < 0:
                    distance[other], before[other] = distance[room] + 1, room
                    following.append(other)
                if distance[other] == distance[room] + 1:
                    ways[other] = min(ways[other] + ways[room], 2)
        ring = following
    return distance, ways, before


def _neighbours(room: Room, rooms: int) -> Iterator[Room]:
    row, column = divmod(room, rooms)
    if row > 0:
        yield room - rooms
    if column > 0:
        yield room - 1
    if column < rooms - 1:
        yield room + 1
    if row < rooms - 1:
        yield room + rooms


def _draw_step(grid: NDArray[np.uint8], rooms: int, room: Room, other: Room, token: int) -> None:
    """Marks two rooms that are open to each other, and the cell between them."""
    (top, left), (bottom, right) = _place(room, rooms), _place(other, rooms)
    grid[top, left] = grid[bottom, right] = grid[(top + bottom) // 2, (left + right) // 2] = token


def _place(room: Room, rooms: int) -> tuple[int, int]:
    row, column = divmod(room, rooms)
    return 2 * row + 1, 2 * column + 1

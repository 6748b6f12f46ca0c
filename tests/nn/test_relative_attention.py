"""Relative attention and its parts against loops with explicit distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.nn import distance_codes, relative_attention, relative_shift, visible

BATCH, LENGTH, MEMORY, HEADS, SIZE = 2, 4, 3, 2, 5

attend = jax.jit(relative_attention)


def arrays(memory=MEMORY):
    """Queries, keys, values, distance keys and the two biases."""
    rng = np.random.default_rng(0)
    keys = memory + LENGTH
    shapes = [(BATCH, length, HEADS, SIZE) for length in (LENGTH, keys, keys)]
    shapes += [(keys, HEADS, SIZE), (HEADS, SIZE), (HEADS, SIZE)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def in_loops(q, k, v, r, content_bias, position_bias, memory, sees, mask=None):
    """``sees(row, query position, key position)``; r is read by distance, 0 at its end."""
    result = np.zeros(q.shape)
    for row, i, head in np.ndindex(q.shape[:3]):
        seen = [j for j in range(k.shape[1]) if sees(row, i + memory, j)]
        scores = np.array(
            [
                (q[row, i, head] + content_bias[head]) @ k[row, j, head]
                + (q[row, i, head] + position_bias[head]) @ r[len(r) - 1 - (i + memory - j), head]
                for j in seen
            ]
        ) / np.sqrt(SIZE)
        share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        if mask is not None:
            share = share * mask[row, head, i, seen]
        result[row, i, head] = share @ v[row, seen, head]
    return result


@pytest.mark.parametrize(
    ("memory", "horizon", "filled"),
    [
        (0, 1000, None),
        (0, 2, None),
        (MEMORY, 1000, None),
        (MEMORY, 3, None),
        (MEMORY, 1000, [1, 0]),
        (MEMORY, 4, [2, 3]),
        (MEMORY, 1, [3, 3]),
    ],
)
def test_attention_is_the_formula(memory, horizon, filled):
    given = arrays(memory)
    seen = visible(
        LENGTH, memory, horizon=horizon, filled=None if filled is None else jnp.array(filled)
    )
    held = [memory] * BATCH if filled is None else filled

    def sees(row, query, key):
        return query - horizon < key <= query and key >= memory - held[row]

    expected = in_loops(*given, memory, sees)
    np.testing.assert_allclose(attend(*given, seen), expected, rtol=0, atol=1e-5)


def test_a_mask_falls_on_the_weights_after_the_softmax():
    given = arrays()
    mask = np.random.default_rng(1).integers(0, 2, (BATCH, HEADS, LENGTH, MEMORY + LENGTH)) * 2.0
    seen = visible(LENGTH, MEMORY, horizon=1000)
    expected = in_loops(*given, MEMORY, lambda row, query, key: key <= query, mask)
    result = attend(*given, seen, jnp.asarray(mask, jnp.float32))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_bfloat16_stays_and_its_softmax_is_wide():
    given = arrays()
    seen = visible(LENGTH, MEMORY, horizon=1000)
    half = [jnp.asarray(x, jnp.bfloat16) for x in given]
    result = attend(*half, seen)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.astype(jnp.float32), attend(*given, seen), rtol=0, atol=0.1)
    exponentials = [
        equation.outvars[0].aval.dtype
        for equation in jax.make_jaxpr(relative_attention)(*half, seen).jaxpr.eqns
        if equation.primitive.name == "exp"
    ]
    assert exponentials == [jnp.float32]


@pytest.mark.parametrize("memory", [0, MEMORY])
def test_the_shift_moves_each_distance_to_its_key(memory):
    keys = memory + LENGTH
    distances = jnp.arange(keys - 1, -1, -1)
    rows = 100 * jnp.arange(LENGTH)[:, None]
    shifted = relative_shift(jnp.broadcast_to(rows + distances, (2, 3, LENGTH, keys)))
    assert shifted.shape == (2, 3, LENGTH, keys)
    for i, j in np.ndindex(LENGTH, keys):
        if j <= i + memory:
            assert (shifted[..., i, j] == 100 * i + i + memory - j).all()


@pytest.mark.parametrize("width", [6, 7])
def test_codes_are_the_sinusoids_of_falling_distances(width):
    codes = distance_codes(4, width)
    assert codes.dtype == jnp.float32
    expected = np.zeros((4, width))
    for row, distance in enumerate((3, 2, 1, 0)):
        for i in range(width // 2 + width % 2):
            angle = distance * 10000 ** (-2 * i / width)
            expected[row, i] = np.sin(angle)
            if i < width // 2:
                expected[row, width // 2 + width % 2 + i] = np.cos(angle)
    np.testing.assert_allclose(codes, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("filled", [None, [0, 2]])
@pytest.mark.parametrize("horizon", [1, 3, 1000])
def test_a_query_sees_itself_and_what_came_before_within_the_horizon(horizon, filled):
    seen = visible(
        LENGTH, MEMORY, horizon=horizon, filled=None if filled is None else jnp.array(filled)
    )
    rows = 1 if filled is None else BATCH
    assert seen.shape == (rows, 1, LENGTH, MEMORY + LENGTH)
    for row, i, j in np.ndindex(rows, LENGTH, MEMORY + LENGTH):
        distance = i + MEMORY - j
        held = filled is None or j >= MEMORY - filled[row]
        assert seen[row, 0, i, j] == (0 <= distance < horizon and held)

"""The adaptive embedding against its formula, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.nn._adaptive_embedding import AdaptiveEmbedding

VOCABULARY, WIDTH = 23, 8

CASES = {
    "plain": {},
    "cutoffs only": {"cutoffs": (5, 11)},
    "narrow": {"embedding_width": 6},
    "narrow with cutoffs": {"embedding_width": 6, "cutoffs": (5, 11)},
    "divided": {"cutoffs": (5, 11), "divisor": 2},
    "divided and wide": {"embedding_width": 12, "cutoffs": (1, 11, 22), "divisor": 2},
    "divided without cutoffs": {"divisor": 2},
}

in_all_cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())


def make(**options):
    return AdaptiveEmbedding(VOCABULARY, WIDTH, **options, rngs=nnx.Rngs(0))


def row(embedding, token):
    """The width-8 vector of one token, found by walking through the tables."""
    tables = [np.asarray(table[...], np.float64) for table in embedding.tables]
    projections = [None if p is None else np.asarray(p[...]) for p in embedding.projections]
    cluster = 0
    while token >= len(tables[cluster]):
        token -= len(tables[cluster])
        cluster += 1
    vector = tables[cluster][token]
    if projections[cluster] is not None:
        vector = projections[cluster] @ vector
    return np.sqrt(WIDTH) * vector


@in_all_cases
def test_every_token_gets_its_projected_row(options):
    embedding = make(**options)
    expected = [row(embedding, token) for token in range(VOCABULARY)]
    actual = embedding(jnp.arange(VOCABULARY))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "tables", "projections"),
    [
        ("plain", [(23, 8)], [None]),
        ("cutoffs only", [(23, 8)], [None]),
        ("narrow with cutoffs", [(23, 6)], [(8, 6)]),
        ("divided", [(5, 8), (6, 4), (12, 2)], [(8, 8), (8, 4), (8, 2)]),
        ("divided without cutoffs", [(23, 8)], [(8, 8)]),
    ],
)
def test_shapes_are_those_of_the_checkpoints(name, tables, projections):
    embedding = make(**CASES[name])
    assert [table.shape for table in embedding.tables] == tables
    assert [None if p is None else p.shape for p in embedding.projections] == projections


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 2)])
def test_leading_shapes(shape):
    embedding = make(**CASES["divided"])
    tokens = jnp.arange(np.prod(shape, dtype=int)).reshape(shape)
    assert embedding(tokens).shape == (*shape, WIDTH)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize(
    "options",
    [
        {"cutoffs": (200, 400), "divisor": 4},
        {"embedding_width": 512, "cutoffs": (200, 400), "divisor": 4},
        {"embedding_width": 64},
        {},
    ],
    ids=["divided", "wide", "narrow", "plain"],
)
def test_every_cluster_starts_with_the_variance_asked_for(options, scale):
    embedding = AdaptiveEmbedding(600, 256, **options, scale=scale, rngs=nnx.Rngs(0))
    variances = np.var(embedding(jnp.arange(600)).reshape(3, -1), axis=1)
    np.testing.assert_allclose(variances, scale**2, rtol=0.1)


@in_all_cases
def test_gradients_are_those_of_a_one_hot_product(options):
    graph, state = nnx.split(make(**options))
    tokens = jnp.asarray([0, 4, 5, 10, 11, 22, 22, 1])
    weights = jax.random.normal(jax.random.key(1), (len(tokens), WIDTH))

    def by_lookup(state):
        return jnp.sum(weights * nnx.merge(graph, state)(tokens))

    def by_product(state):
        embedding, start, total = nnx.merge(graph, state), 0, 0.0
        for table, projection in zip(embedding.tables, embedding.projections, strict=True):
            chosen = jax.nn.one_hot(tokens - start, len(table)) @ table[...]
            total += chosen if projection is None else chosen @ projection[...].T
            start += len(table)
        return jnp.sum(weights * total) * np.sqrt(WIDTH)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.grad(by_lookup)(state),
        jax.grad(by_product)(state),
    )


@in_all_cases
def test_a_token_outside_of_the_vocabulary_gives_nan(options):
    found = make(**options)(jnp.asarray([-1, 0, VOCABULARY - 1, VOCABULARY]))
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [True, False, False, True])
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [True, False, False, True])


@pytest.mark.usefixtures("strict_promotion")
@in_all_cases
def test_no_implicit_casts(options):
    assert make(**options)(jnp.arange(3, dtype=jnp.uint8)).dtype == jnp.float32


def test_tokens_must_be_integers():
    with pytest.raises(TypeError, match=r"tokens must be integers, not float32\."):
        make()(jnp.ones(3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cutoffs": (5, 5)}, r"cutoffs \(5, 5\) must increase strictly and lie between 0 and"),
        ({"cutoffs": (7, 5)}, r"cutoffs \(7, 5\) must increase"),
        ({"cutoffs": (0, 5)}, r"cutoffs \(0, 5\) must increase"),
        ({"cutoffs": (-1,)}, r"cutoffs \(-1,\) must increase"),
        ({"cutoffs": (5, 23)}, r"the vocabulary 23, both excluded"),
        ({"cutoffs": (24,)}, r"cutoffs \(24,\) must increase"),
        ({"divisor": 0}, "divisor is 0 but must be at least 1"),
        ({"embedding_width": 0}, "embedding_width is 0 but must be at least 1"),
        ({"cutoffs": (5, 11), "divisor": 4}, r"divisor 4 leaves cluster 2 no width \(embedding_wi"),
    ],
)
def test_bad_sizes_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


@pytest.mark.parametrize(("vocabulary", "width"), [(0, 8), (23, -1)])
def test_empty_sizes_are_refused(vocabulary, width):
    with pytest.raises(ValueError, match="must be at least 1"):
        AdaptiveEmbedding(vocabulary, width, rngs=nnx.Rngs(0))

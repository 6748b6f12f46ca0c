"""The adaptive softmax against a dense one written out from the formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from deqjax.nn import _chunked_likelihood
from deqjax.nn._adaptive_embedding import AdaptiveEmbedding
from deqjax.nn._adaptive_softmax import AdaptiveSoftmax

VOCABULARY, WIDTH, TOKENS = 23, 8, 14

CASES = {
    "plain": {},
    "cutoffs only": {"cutoffs": (5, 11)},
    "narrow": {"embedding_width": 6, "cutoffs": (5, 11)},
    "divided": {"cutoffs": (5, 11), "divisor": 2},
    "divided and wide": {"embedding_width": 12, "cutoffs": (5, 11, 20), "divisor": 2},
}

in_all_cases = pytest.mark.parametrize("name", CASES)

# tied as asked: a projection that all clusters share, and one of each cluster
TIED = [("narrow", "projections"), ("divided", "projections")]


@pytest.fixture(autouse=True)
def tiny_chunks(monkeypatch):
    """Without this a chunk would hold all tokens of vocabularies as small as these."""
    monkeypatch.setattr(_chunked_likelihood, "_SMALL", 1)


class Ends(nnx.Module):
    """Both ends of a language model, with random biases too."""

    def __init__(self, name, tie="none", chunk=4):
        options, rngs = CASES[name], nnx.Rngs(0)
        clusters = len(options.get("cutoffs", ())) + 1
        self.embedding = AdaptiveEmbedding(VOCABULARY, WIDTH, **options, rngs=rngs)
        self.softmax = AdaptiveSoftmax(
            VOCABULARY,
            WIDTH,
            **options,
            embedding=None if tie == "none" else self.embedding,
            tie_projections=(False,) + (True,) * (clusters - 1) if tie == "projections" else (),
            chunk=chunk,
            rngs=rngs,
        )
        for bias in (*self.softmax.biases, self.softmax.cluster_bias):
            if bias is not None:
                bias[...] = jax.random.normal(rngs.params(), bias.shape, bias.dtype)
        # as precise as the test: parameters begin in float32 whatever the default is
        wide = jax.tree.map(lambda x: x.astype(jnp.result_type(float)), nnx.state(self, nnx.Param))
        nnx.update(self, wide)


def make(name="divided", **options):
    return nnx.merge(*copied(name, **options)).softmax


def copied(name, **options):
    """Graph and parameters of both ends, which may be changed."""
    graph, state = made(name, str(jnp.result_type(float)), **options)
    return graph, jax.tree.map(lambda x: x, state)


@functools.cache
def made(name, dtype, **options):
    """Drawn in one program, eagerly every shape compiles its own; dtype: the caller's default."""
    graphs = []

    @jax.jit
    def draw():
        graph, state = nnx.split(Ends(name, **options))
        graphs.append(graph)
        return state

    state = draw()
    return graphs[0], state


def without_arrays(name, **options):
    """Both ends with shapes in place of arrays: which parameters are the same one still shows."""
    return nnx.eval_shape(lambda: Ends(name, **options))


# compiled as a whole: operation by operation is slower
log_probabilities = nnx.jit(AdaptiveSoftmax.log_probabilities)
likelihood = nnx.jit(AdaptiveSoftmax.negative_log_likelihood)


def inputs():
    """Random states and targets of every cluster, shuffled."""
    rng = np.random.default_rng(0)
    targets = rng.permutation([*range(0, 22, 2), 4, 10, 22])
    return jnp.asarray(rng.normal(size=(TOKENS, WIDTH))), jnp.asarray(targets)


def by_formula(softmax, states, cutoffs=(), *, xp=jnp):
    """log p of every token, (tokens, vocabulary): the chain rule, cluster by cluster.

    With NumPy for xp in float64, whatever the parameters.
    """
    bounds = (0, *cutoffs, VOCABULARY)

    def value(parameter):
        return xp.asarray(parameter[...], np.float64 if xp is np else None)

    def rows(parameters, cluster):
        if len(parameters) > 1:
            return value(parameters[cluster])
        return value(parameters[0])[bounds[cluster] : bounds[cluster + 1]]

    def projected(cluster):
        projection = softmax.projections[cluster]
        return states if projection is None else states @ value(projection)

    def logits(cluster):
        return projected(cluster) @ rows(softmax.tables, cluster).T + rows(softmax.biases, cluster)

    def log_softmax(logits):
        return logits - xp.log(xp.exp(logits).sum(axis=1, keepdims=True))

    head = logits(0)
    if cutoffs:
        gates = projected(0) @ value(softmax.cluster_weight).T + value(softmax.cluster_bias)
        head = xp.concatenate([head, gates], axis=1)
    head = log_softmax(head)
    parts = [head[:, : bounds[1]]]
    for i in range(1, len(bounds) - 1):
        parts.append(head[:, head.shape[1] - i, None] + log_softmax(logits(i)))
    return xp.concatenate(parts, axis=1)


def formula_nll(softmax, states, targets, cutoffs):
    chosen = by_formula(softmax, states, cutoffs)
    return -jnp.take_along_axis(chosen, targets[:, None], axis=1)[:, 0]


@functools.cache
def slopes(name, **options):
    """Compiled (parameters, states, targets) -> value and gradients of ours, and the formula's."""
    graph, _ = copied(name, **options)
    cutoffs = CASES[name].get("cutoffs", ())
    weights = jnp.linspace(0.5, 1.5, TOKENS)

    def ours(parameters, states, targets):
        softmax = nnx.merge(graph, parameters).softmax
        return jnp.sum(weights * softmax.negative_log_likelihood(states, targets))

    def formula(parameters, states, targets):
        softmax = nnx.merge(graph, parameters).softmax
        return jnp.sum(weights * formula_nll(softmax, states, targets, cutoffs))

    def both(*point):
        return [jax.value_and_grad(f, argnums=(0, 1))(*point) for f in (ours, formula)]

    def second(*point):
        """Derivative of a derivative in one direction, forward over reverse."""
        direction = jax.tree.map(jnp.cos, point[:2])

        def slope_of_slope(f):
            def slope(at):
                return jax.jvp(lambda p: f(*p, point[2]), (at,), (direction,))[1]

            return jax.grad(slope)(point[:2])

        return [slope_of_slope(f) for f in (ours, formula)]

    return jax.jit(both), jax.jit(second)


def assert_same(actual, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-11}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


@pytest.mark.parametrize(
    ("name", "tie"),
    [*((name, "none") for name in CASES), *TIED, ("cutoffs only", "tables"), ("divided", "tables")],
)
def test_log_probabilities_are_the_formula(name, tie):
    softmax, states = make(name, tie=tie), inputs()[0]
    expected = by_formula(softmax, np.asarray(states), CASES[name].get("cutoffs", ()), xp=np)
    actual = log_probabilities(softmax, states)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@in_all_cases
def test_probabilities_sum_to_one(name):
    total = jnp.exp(log_probabilities(make(name), inputs()[0])).sum(-1)
    np.testing.assert_allclose(total, np.ones(TOKENS), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "chunk"),
    [*((name, 4) for name in CASES), ("plain", 64), ("divided", 64)],  # 64: all tokens at once
)
def test_likelihood_is_the_log_probability_of_the_target(name, chunk):
    softmax, (states, targets) = make(name, chunk=chunk), inputs()
    # by the formula, as tested above
    chosen = by_formula(softmax, np.asarray(states), CASES[name].get("cutoffs", ()), xp=np)
    expected = -chosen[np.arange(TOKENS), targets]
    actual = likelihood(softmax, states, targets)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "tie"), [*((name, "none") for name in CASES), *TIED])
def test_gradients_are_those_of_the_formula(name, tie):
    states, targets = inputs()
    actual, expected = slopes(name, tie=tie)[0](copied(name, tie=tie)[1], states, targets)
    assert_same(actual, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "target", [[0, 4, 2], [5, 10, 7], [11, 22, 15]], ids=["head", "first tail", "last tail"]
)
def test_tokens_of_one_cluster_only(target):
    targets = jnp.resize(jnp.asarray(target), TOKENS)
    parameters, states = copied("divided", tie="none")[1], inputs()[0]
    actual, expected = slopes("divided", tie="none")[0](parameters, states, targets)
    assert_same(actual, expected)


@pytest.mark.usefixtures("float64")
def test_a_cluster_without_tokens_is_not_computed():
    """Its weights are broken, and neither the value nor a gradient notices."""
    targets = jnp.resize(jnp.asarray([0, 4, 5, 10, 3, 7]), TOKENS)
    parameters = copied("divided", tie="none")[1]
    parameters["softmax"]["tables"][2][...] *= jnp.nan
    ours, formula = slopes("divided", tie="none")[0](parameters, inputs()[0], targets)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(formula))


@pytest.mark.usefixtures("float64")
def test_second_derivatives_and_forward_mode():
    parameters = copied("divided", tie="none")[1]
    assert_same(*slopes("divided", tie="none")[1](parameters, *inputs()))


@pytest.mark.parametrize("shape", [(), (14,), (1, 7, 2)])
def test_leading_shapes(shape):
    softmax, (states, targets) = make(), inputs()
    count = int(np.prod(shape))
    states, targets = states[:count], targets[:count]
    nll = likelihood(softmax, states.reshape(*shape, WIDTH), targets.reshape(shape))
    flat = likelihood(softmax, states, targets)
    np.testing.assert_allclose(nll, flat.reshape(shape), rtol=1e-6)
    assert log_probabilities(softmax, states.reshape(*shape, WIDTH)).shape == (*shape, VOCABULARY)


@in_all_cases
def test_a_target_outside_of_the_vocabulary_gives_nan(name):
    states, targets = inputs()
    strange = targets.at[:5].set(jnp.asarray([-1, 0, VOCABULARY - 1, VOCABULARY, -2]))
    nll = likelihood(make(name, chunk=4), states, strange)
    np.testing.assert_array_equal(np.isnan(nll[:5]), [True, False, False, True, True])
    assert np.isfinite(nll[5:]).all()


@in_all_cases
def test_tied_tables_are_one_parameter(name):
    ends = without_arrays(name, tie="tables")
    for ours, theirs in zip(ends.softmax.tables, ends.embedding.tables, strict=True):
        assert ours is theirs


@pytest.mark.parametrize(
    ("name", "partners"),
    [("divided", [None, 1, 2]), ("narrow", [None, 0, 0]), ("cutoffs only", [None, None, None])],
)
def test_projections_are_tied_as_asked(name, partners):
    ends = without_arrays(name, tie="projections")
    known = list(ends.embedding.projections)
    tied = [
        next((i for i, theirs in enumerate(known) if ours is theirs and ours is not None), None)
        for ours in ends.softmax.projections
    ]
    assert tied == partners


def test_a_split_sees_each_tied_parameter_once():
    ends = without_arrays("divided", tie="projections")
    # 3 tables, 3 + 1 projections, 3 biases, cluster weight and bias
    assert len(jax.tree.leaves(nnx.state(ends))) == 3 + 4 + 3 + 2


@functools.cache
def compiled_bytes(vocabulary, tokens, cutoffs=(1000, 3000), chunk=64):
    """Temporary memory of value and gradient, compiled but not run."""
    options = {"cutoffs": cutoffs, "divisor": 2, "chunk": chunk, "rngs": nnx.Rngs(0)}
    graph, parameters = nnx.split(AdaptiveSoftmax(vocabulary, 16, **options))

    def loss(parameters, states, targets):
        return jnp.mean(nnx.merge(graph, parameters).negative_log_likelihood(states, targets))

    states = jax.ShapeDtypeStruct((tokens, 16), jnp.float32)
    targets = jax.ShapeDtypeStruct((tokens,), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return step.lower(parameters, states, targets).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_a_few_chunks_of_the_largest_cluster():
    """Not tokens times vocabulary: 164 MB here, where a chunk of the last cluster takes 4.4 MB."""
    assert compiled_bytes(20_000, 2048) < 4 * 64 * 17_000 * 4


def test_memory_does_not_grow_with_the_number_of_chunks():
    """Gradients of the weights are summed, not stacked: only states and their like grow."""
    growth = compiled_bytes(20_000, 8192) - compiled_bytes(20_000, 2048)
    assert growth < (8192 - 2048) * 16 * 4 * 8


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", ["divided", "narrow"])
def test_bfloat16_states(name):
    states, targets = inputs()
    graph, parameters = nnx.split(make(name))

    def likelihood_of(parameters, states):
        return nnx.merge(graph, parameters).negative_log_likelihood(states, targets)

    @jax.jit
    def value_and_slopes(states):
        nll, pull = jax.vjp(likelihood_of, parameters, states)
        return nll, pull(jnp.ones_like(nll))

    low, full = (value_and_slopes(states.astype(d)) for d in (jnp.bfloat16, jnp.float32))
    assert [leaf.dtype for leaf in jax.tree.leaves(low)] == [jnp.float32] * (
        len(jax.tree.leaves(low)) - 1
    ) + [jnp.bfloat16]
    as_float = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    assert_same(as_float, full, rtol=0.05, atol=0.1)


def test_vmap():
    softmax, (states, targets) = make(), inputs()
    rows = (states.reshape(2, 7, WIDTH), targets.reshape(2, 7))
    nll = jax.jit(jax.vmap(softmax.negative_log_likelihood))(*rows)
    expected = likelihood(softmax, states, targets)
    np.testing.assert_allclose(nll.reshape(-1), expected, rtol=1e-6)


def over_two_devices(f):
    """f(parameters, states, targets) with tokens split over two devices."""
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=(whole, split, split), out_specs=whole)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("transform", ["shard_map", "pmap"])
def test_gradients_on_two_devices_that_skip_different_clusters(transform):
    """One device sees the shortlist only, the other the tails."""
    targets = jnp.asarray([0, 1, 2, 3, 4, 1, 2, 9, 22, 11, 10, 15, 16, 7])
    graph, parameters = nnx.split(make("divided"))
    states = inputs()[0]

    def loss(parameters, states, targets):
        softmax = nnx.merge(graph, parameters)
        return jnp.sum(softmax.negative_log_likelihood(states, targets))

    def total(parameters, states, targets):
        return jax.lax.psum(loss(parameters, states, targets), "data")

    def per_device(parameters, states, targets):
        return jax.lax.psum(jax.grad(loss)(parameters, states, targets), "data")

    expected = jax.jit(jax.grad(loss))(parameters, states, targets)
    if transform == "pmap":
        devices = jax.devices()[:2]
        step = jax.pmap(per_device, axis_name="data", in_axes=(None, 0, 0), devices=devices)
        both = step(parameters, states.reshape(2, 7, -1), targets.reshape(2, 7))
        actual = jax.tree.map(lambda leaf: leaf[0], both)
    else:
        actual = jax.jit(jax.grad(over_two_devices(total)))(parameters, states, targets)
    assert_same(actual, expected)


@pytest.mark.usefixtures("float64")
def test_gradient_inside_of_shard_map():
    """With weights marked as replicated JAX sums their gradient over the devices itself."""
    states, targets = inputs()
    graph, parameters = nnx.split(make("divided"))

    def slope(parameters, states, targets):
        def loss(parameters):
            return jnp.sum(nnx.merge(graph, parameters).negative_log_likelihood(states, targets))

        return jax.grad(loss)(parameters)

    actual = jax.jit(over_two_devices(slope))(parameters, states, targets)
    assert_same(actual, jax.jit(slope)(parameters, states, targets))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cutoffs": (7, 5)}, r"cutoffs \(7, 5\) must increase strictly"),
        ({"divisor": 0}, "divisor is 0 but must be at least 1"),
        ({"chunk": 0}, "chunk is 0 but must be at least 1"),
        ({"tie_projections": (True,)}, "tie_projections ties to an embedding; give embedding="),
        (
            {"cutoffs": (5, 11), "tie_projections": (False, False)},
            "tie_projections has 2 entries but there are 3 clusters",
        ),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaptiveSoftmax(VOCABULARY, WIDTH, **options, rngs=nnx.Rngs(0))


def test_an_embedding_of_other_sizes_is_refused():
    embedding = AdaptiveEmbedding(VOCABULARY, WIDTH, cutoffs=(5,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"cutoffs=\(5,\).*cutoffs=\(6,\).*the same sizes\."):
        AdaptiveSoftmax(VOCABULARY, WIDTH, cutoffs=(6,), embedding=embedding, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("states", "targets", "error", "sentence"),
    [
        ((3, 7), (3,), ValueError, r"states of shape \(3, 7\) must end in the width 8\."),
        ((), (), ValueError, r"states of shape \(\) must end in the width 8\."),
        ((3, 8), (2,), ValueError, r"targets of shape \(2,\) do not fit states of shape \(3, 8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(states, targets, error, sentence):
    with pytest.raises(error, match=sentence):
        make().negative_log_likelihood(jnp.ones(states), jnp.zeros(targets, int))


def test_targets_must_be_integers():
    with pytest.raises(TypeError, match=r"targets must be integers, not float32\."):
        make().negative_log_likelihood(jnp.ones((3, 8)), jnp.ones(3))

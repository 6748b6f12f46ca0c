"""Which parameters Muon has, and that its updates are what Muon's are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from deqjax.models import (
    MDEQ,
    DEQTransformerLM,
    MDEQShape,
    SolverSettings,
    TransformerShape,
)
from deqjax.training._options import OptimizerConfig
from deqjax.training.step._muon import matrix_axes
from deqjax.training.step._optimizer import optimizer
from deqjax.training.step._state import split

RATE = 0.01


def config(kind="muon", **changes):
    options = {"weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 1e9} | changes
    return OptimizerConfig(kind, "constant", RATE, **options)


def updates_of(parameters, gradient, kind="muon", **changes):
    update = optimizer(config(kind, **changes), 10)
    return update.update(gradient, update.init(parameters), parameters)[0]


def random_like(tree, seed=0):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("lift", (3, 4), ((0,), (1,))),
        ("layers/0/kernel", (3, 4), ((0,), (1,))),
        ("layers/kernel", (6, 3, 4), ((1,), (2,))),
        ("attention/query/kernel", (8, 2, 4), ((0,), (1, 2))),
        ("attention/out/kernel", (2, 4, 8), ((0, 1), (2,))),
        ("out/kernel", (8, 8), ((0,), (1,))),
        ("conv/kernel", (3, 3, 4, 5), ((0, 1, 2), (3,))),
        ("Conv_0/kernel", (3, 3, 3, 4, 5), ((0, 1, 2, 3), (4,))),
        ("SelfAttention_0/key/kernel", (8, 2, 4), ((0,), (1, 2))),
        ("conv/kernel", (1, 1, 4, 5), ((0, 1, 2), (3,))),
        ("embedding/tables/0", (9, 4), None),
        ("Embed_0/embedding", (9, 4), None),
        ("token_embedding/kernel", (9, 4), None),
        ("head/linear/kernel", (4, 9), None),
        ("lm_head/kernel", (4, 9), None),
        ("LMHead_0/Dense_0/kernel", (4, 9), None),
        ("softmax/projections/0", (4, 9), None),
        ("head/kernel", (3, 3, 4, 5), None),
        ("kernel", (4,), None),
        ("temperature", (), None),
        ("layers/norm/scale", (6, 4), None),
        ("attention/query/bias", (2, 4), None),
        ("content_bias", (2, 4), None),
        ("position", (1, 7, 4), None),
        ("score/kernel", (4, 1), None),
        ("lift/kernel", (1, 4), None),
        ("header/kernel", (3, 4), ((0,), (1,))),
    ],
)
def test_the_split_is_by_name_and_shape(path, shape, axes):
    found = matrix_axes(path.split("/"), shape)
    assert found == axes


def test_a_bare_matrix_is_muons():
    assert matrix_axes((), (3, 4)) == ((0,), (1,))


def test_the_update_is_orthogonal_but_for_newton_and_schulz():
    """And as large as Liu et al. say: 0.2 sqrt(max(m, n)) for each singular value."""
    for shape in ((12, 12), (6, 24), (24, 6)):
        gradient = {"kernel": jax.random.normal(jax.random.key(1), shape)}
        move = updates_of(gradient, gradient)["kernel"]
        u, s, vt = np.linalg.svd(np.asarray(gradient["kernel"]), full_matrices=False)
        orthogonal = -np.asarray(move) / (RATE * 0.2 * max(shape) ** 0.5)
        # the same singular vectors, all singular values near 1, however the gradient's are spread
        found = u.T @ orthogonal @ vt.T
        np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-4)
        assert np.diag(found).min() > 0.65
        assert np.diag(found).max() < 1.25
        assert s.max() / s.min() > 2


def test_a_stack_is_as_many_matrices():
    gradient = jax.random.normal(jax.random.key(2), (3, 5, 7))
    together = updates_of(*2 * [{"kernel": gradient}])["kernel"]
    for each, one in zip(together, gradient, strict=True):
        alone = updates_of(*2 * [{"kernel": one}])["kernel"]
        np.testing.assert_allclose(each, alone, rtol=1e-4, atol=1e-7)


def test_a_convolution_is_one_matrix():
    gradient = jax.random.normal(jax.random.key(3), (3, 3, 4, 6))
    found = updates_of(*2 * [{"kernel": gradient}])["kernel"]
    flat = updates_of(*2 * [{"kernel": gradient.reshape(36, 6)}])["kernel"]
    np.testing.assert_allclose(found.reshape(36, 6), flat, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_of_muon(nesterov):
    """Two gradients: the update is the orthogonalized sum of both, as the momentum weighs them."""
    first, second = (jax.random.normal(jax.random.key(k), (4, 4)) for k in (4, 5))
    update = optimizer(config(muon_momentum=0.5, nesterov=nesterov), 10)
    state = update.init({"w": first})
    _, state = update.update({"w": first}, state, {"w": first})
    found, _ = update.update({"w": second}, state, {"w": first})
    mixed = 0.25 * first + 0.5 * second
    if nesterov:  # each term divided by what its weights sum up to
        mixed = 0.5 * mixed / (1 - 0.5**3) + 0.5 * second / (1 - 0.5**2)
    expected = updates_of({"w": mixed}, {"w": mixed}, nesterov=False)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-3, atol=1e-6)


def test_weight_decay_of_matrices_is_decoupled():
    w = jax.random.normal(jax.random.key(6), (4, 5))
    plain = updates_of({"w": w}, {"w": w})["w"]
    decayed = updates_of({"w": w}, {"w": w}, weight_decay=0.3)["w"]
    np.testing.assert_allclose(decayed, plain - RATE * 0.3 * w, rtol=1e-5, atol=1e-7)


def test_the_other_parameters_get_adamws_update_bit_for_bit():
    parameters = random_like(
        {
            "embedding": jnp.zeros((9, 4)),
            "cell": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)},
            "head": {"kernel": jnp.zeros((4, 9))},
        }
    )
    options = {"weight_decay": 0.1, "beta2": 0.9}
    found, expected = parameters, parameters
    muon, adamw = (optimizer(config(kind, **options), 10) for kind in ("muon", "adamw"))
    states = muon.init(parameters), adamw.init(parameters)
    for seed in range(1, 4):
        gradient = random_like(parameters, seed)
        moves, state = muon.update(gradient, states[0], found)
        wanted, other = adamw.update(gradient, states[1], expected)
        found, expected = (
            optax.apply_updates(found, moves),
            optax.apply_updates(expected, wanted),
        )
        states = state, other
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])
    np.testing.assert_array_equal(found["head"]["kernel"], expected["head"]["kernel"])
    np.testing.assert_array_equal(found["cell"]["bias"], expected["cell"]["bias"])
    assert (found["cell"]["kernel"] != expected["cell"]["kernel"]).all()


def names_of(tree):
    """Dotted names of a state's leaves, without the key of a Variable's value."""
    return {
        ".".join(str(key.key) for key in path if hasattr(key, "key"))
        for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def muons_of(model):
    """Names of the parameters with a momentum of Muon, and of all others, from Optax's state."""
    _, weights = split(model)
    state = optimizer(config(), 10).init(weights.parameters)
    inner = next(
        each for each in jax.tree.leaves(state, is_leaf=is_muon_state) if is_muon_state(each)
    )
    muons = names_of(inner.mu)
    return muons, names_of(weights.parameters) - muons


def is_muon_state(node):
    return isinstance(node, optax.contrib.MuonState)


def test_the_split_of_a_language_model():
    shape = TransformerShape(vocabulary=9, length=8, width=8, heads=2, hidden=16)
    muons, others = muons_of(DEQTransformerLM(shape, SolverSettings(), rngs=nnx.Rngs(0)))
    cell = {f"deq.cell.{name}.kernel" for name in ("qkv", "distance", "out", "up", "down")}
    assert muons == cell | {"injection.kernel"}
    assert {"embedding.tables.0", "deq.cell.content_bias", "injection.bias"} <= others


def test_the_split_of_an_image_model():
    shape = MDEQShape(
        channels=(4, 8),
        groups=2,
        head_channels=(2, 4),
        final_channels=8,
        classes=3,
        input_channels=3,
    )
    muons, others = muons_of(MDEQ(shape, rngs=nnx.Rngs(0)))
    assert {name.split(".")[0] for name in muons} == {"stem", "deq"}
    assert all(name.endswith(".kernel") for name in muons)
    kernels = {name for name in others if name.endswith(".kernel")}
    assert "head.classifier.kernel" in kernels
    assert all(name.startswith("head.") for name in kernels)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        z = nn.Embed(9, 4)(tokens)
        z = nn.SelfAttention(2)(z)
        z = nn.LayerNorm()(nn.Dense(6)(z))
        return nn.Dense(9, name="head")(z)


def test_the_split_of_a_linen_model():
    bridged = nnx.bridge.ToNNX(LinenModel(), nnx.Rngs(0)).lazy_init(jnp.zeros((1, 3), jnp.int32))
    muons, others = muons_of(bridged)
    attention = {f"SelfAttention_0.{name}.kernel" for name in ("query", "key", "value", "out")}
    assert muons == attention | {"Dense_0.kernel"}
    assert {"Embed_0.embedding", "head.kernel", "LayerNorm_0.scale"} <= others


def test_an_nnx_state_is_updated_as_the_same_tree_of_arrays():
    _, weights = split(nnx.Linear(4, 5, rngs=nnx.Rngs(0)))
    plain = {name: leaf[...] for name, leaf in weights.parameters.items()}
    gradient = random_like(plain, 7)
    boxed = jax.tree.map(lambda x: x, weights.parameters)
    boxed = jax.tree.unflatten(jax.tree.structure(boxed), [gradient["bias"], gradient["kernel"]])
    found, expected = updates_of(weights.parameters, boxed), updates_of(plain, gradient)
    for name in plain:
        np.testing.assert_array_equal(found[name][...], expected[name])

"""A plain softmax over a table of tokens, all logits at once and chunk by chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.nn import _chunked_likelihood, token_logits, token_nll

STATES = jax.random.normal(jax.random.key(0), (2, 5, 3))
TABLE = jax.random.normal(jax.random.key(1), (7, 3))
TARGETS = jnp.array([[0, 6, 3, 3, 1], [2, 5, 4, 0, 6]])


def written_out(states, table, softcap):
    logits = states @ table.T
    logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
    nll = jax.nn.logsumexp(logits, axis=-1)
    return nll - jnp.take_along_axis(logits, TARGETS[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("chunk", [4, 100])
def test_value_and_gradient_are_the_formula(monkeypatch, softcap, chunk):
    monkeypatch.setattr(_chunked_likelihood, "_SMALL", 1)

    @jax.jit
    def both(states, table):
        def ours(*parts):
            return token_nll(*parts, TARGETS, softcap=softcap, chunk=chunk)

        value, theirs = ours(states, table), written_out(states, table, softcap)
        slopes = [
            jax.grad(lambda *parts, f=f: jnp.sum(f(*parts) * jnp.arange(5)), (0, 1))(states, table)
            for f in (ours, lambda *parts: written_out(*parts, softcap))
        ]
        return (value, *slopes[0]), (theirs, *slopes[1])

    for ours, theirs in zip(*both(STATES, TABLE), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


def test_a_token_outside_of_the_table_is_nan():
    nll = token_nll(STATES, TABLE, TARGETS.at[0, 0].set(-1).at[1, 1].set(7))
    assert np.argwhere(np.isnan(nll)).tolist() == [[0, 0], [1, 1]]


def test_logits_of_bfloat16_are_summed_in_float32():
    logits = token_logits(STATES.astype(jnp.bfloat16), TABLE, jnp.ones(7), softcap=2.0)
    assert logits.dtype == jnp.float32
    wanted = 2 * np.tanh((STATES @ TABLE.T + 1) / 2)
    np.testing.assert_allclose(logits, wanted, atol=0.1)

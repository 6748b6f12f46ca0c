"""Other primitives in the equations of a jaxpr."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from deqjax._core.substitute import substituted

SIN_TO_COS = {lax.sin_p: lax.cos_p}


@jax.custom_jvp
def own(x):
    return jnp.sin(x)


own.defjvps(lambda t, y, x: t * jnp.cos(x))

PLACES = {
    "plain": lambda x: jnp.exp(lax.sin(x)),
    "jit": jax.jit(lax.sin),
    "remat": jax.checkpoint(lax.sin),
    "scan": lambda x: lax.scan(lambda c, _: (lax.sin(c), None), x, length=2)[0],
    "while": lambda x: lax.while_loop(lambda c: c < 5, lambda c: lax.sin(c) + 5, x),
    "cond": lambda x: lax.cond(x > 0, lax.sin, lax.exp, x),
    "own derivative": own,
    "linear solve": lambda x: lax.custom_linear_solve(
        lambda y: y, lax.sin(x), lambda _, b: lax.sin(b), symmetric=True
    ),
}


def evaluate(jaxpr, x):
    return jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, x)[0]


@pytest.mark.parametrize("place", PLACES)
def test_a_primitive_is_found_wherever_it_is(place):
    x = jnp.float32(0.5)
    found = evaluate(substituted(jax.make_jaxpr(PLACES[place])(x), SIN_TO_COS), x)
    cosine = jnp.cos(x)
    expected = {
        "plain": jnp.exp(cosine),
        "scan": jnp.cos(cosine),
        "while": cosine + 5,
        "linear solve": jnp.cos(cosine),
    }.get(place, cosine)
    assert found == expected


def test_what_has_none_of_them_is_the_very_same():
    jaxpr = jax.make_jaxpr(jax.jit(lambda x: lax.cond(x > 0, lax.exp, lax.log, x)))(0.5)
    assert substituted(jaxpr, SIN_TO_COS) is jaxpr


def test_a_function_that_is_called_twice_is_still_one():
    inner = jax.jit(lax.sin)
    jaxpr = substituted(jax.make_jaxpr(lambda x: inner(inner(x)))(0.5), SIN_TO_COS)
    first, second = (equation.params["jaxpr"] for equation in jaxpr.eqns)
    assert first is second


def test_what_remat_saves_is_decided_by_the_primitive_that_the_user_knows():
    seen = []

    def policy(primitive, *_, **__):
        seen.append(primitive)
        return True

    f = jax.checkpoint(lax.sin, policy=policy)
    jaxpr = substituted(jax.make_jaxpr(f)(0.5), SIN_TO_COS)
    jax.make_jaxpr(jax.grad(lambda x: evaluate(jaxpr, x)))(0.5)
    assert lax.sin_p in seen
    assert lax.cos_p not in seen

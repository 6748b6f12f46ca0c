"""The comparison of equilibrium reasoners with published outputs, for golden.py."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from golden_case import STEPS, TOL, Case, Row, Solved, equilibrium

from deqjax import solvers
from deqjax.convert import convert_reasoner
from deqjax.models import Reasoner, ReasonerCell, ReasonerStates


def reasoner(case: Case) -> list[Row]:
    """A cycle, a pass with what is read from it, the gradient of its loss, an inner fixed point."""
    model = convert_reasoner(case.state, case.config)
    tokens, labels = (jnp.asarray(case.array(name), jnp.int32) for name in ("inputs", "labels"))
    states = ReasonerStates(jnp.asarray(case.array("z_H")), jnp.asarray(case.array("z_L")))
    x, cell = model.embed(tokens), cast(ReasonerCell, model.deq.cell)
    one = nnx.jit(lambda cell: cell(states, x, step=jnp.int32(0)))(cell)
    model.train()  # a pass as training makes it, without noise
    loss, (answer, gradients) = _differentiated(model, tokens, labels, states)
    errors = {
        "cycle": max(case.error("one_H", one.high), case.error("one_L", one.low)),
        "pass": max(
            case.error("deep_H", answer.states.high), case.error("deep_L", answer.states.low)
        ),
        "logits": case.error("logits", answer.logits),
        "halting": case.error("q", answer.halting),
        "loss": case.error("loss", loss),
    }
    # what the gradient reaches at all
    published = [name for name in case.arrays if name.startswith("grad.")]
    ours = {f"grad.{name}": each for name, each in gradients.items()}
    errors["gradient"] = max(case.error(name, ours[name]) for name in published)
    note = ""
    if "inner_star" in case.arrays:
        solved, note = _inner(case, model, states, x)
        errors["inner z*"] = case.error("inner_star", solved.value)
    return [Row(case.name, errors, note)]


def _differentiated(
    model: Reasoner, tokens: jax.Array, labels: jax.Array, states: ReasonerStates
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """The loss, the answer, and the gradient by the names and in the layout of the state dict."""

    def objective(model: Reasoner) -> tuple[jax.Array, Any]:
        answer = model(tokens, states)
        losses = optax.softmax_cross_entropy_with_integer_labels(answer.logits, labels)
        return losses.mean(), answer._replace(equilibrium=None)

    (loss, answer), gradient = nnx.jit(nnx.value_and_grad(objective, has_aux=True))(model)
    named = {
        "embed_tokens.embedding_weight": gradient["embedding"][...],
        "lm_head.weight": gradient["head"][...].T,
    }
    names = {"mix": "self_attn", "feed_forward": "mlp"}
    if model.shape.mixing == "mlp":
        names["mix"] = "mlp_t"
    matrices = {"qkv": "qkv_proj", "out": "o_proj", "up": "gate_up_proj", "down": "down_proj"}
    for index, layer in gradient["deq"]["cell"]["layers"].items():
        for part, name in names.items():
            for matrix, each in layer[part].items():
                key = f"L_level.layers.{index}.{name}.{matrices[matrix]}.weight"
                named[key] = each["kernel"][...].T
    return loss, (answer, named)


def _inner(case: Case, model: Reasoner, states: ReasonerStates, x: jax.Array) -> tuple[Solved, str]:
    """The fixed point of z_L = level(z_L, z_H + x)."""
    level = cast(ReasonerCell, model.deq.cell).level

    def run(solver: Callable[..., solvers.Solution], z0: np.ndarray) -> Solved:
        solution = jax.jit(
            lambda z: solver(lambda z: level(z, states.high + x), z, tol=TOL, max_steps=STEPS)
        )(jnp.asarray(z0))
        return Solved(solution.value, None, jnp.max(solution.stats.residual))

    return equilibrium(run, case.array("inner_star"), lambda value: case.error("inner_star", value))

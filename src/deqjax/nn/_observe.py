"""Seeing and steering the equilibrium layers of a model, wherever they are in it, during a call.

A training loop must know what the layers of somebody else's model solved, to penalize it, to report
it and to bound it. It observes the model while the model's own code runs: nothing in that code
hands probes or limits on.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from deqjax._core.algebra import batch_size
from deqjax._core.form import take_form
from deqjax._core.hoist import last_step
from deqjax._core.types import Map, Operands, Scalar, State
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.nn._solve_layer import Layer
from deqjax.nn._unobserved import is_unobserved, unobserved
from deqjax.solvers import Solution, Stats

# JAX keeps what it traced under its own transforms: a trace that was made before nobody would see
_OBSERVING = jax.make_user_context(default_value=False)


class ObservationError(RuntimeError):
    """What a layer does cannot be observed where it is called."""


class ObservedSolve(NamedTuple):
    """What a layer of an observed model solved: enough to penalize its Jacobian, and to bound it.

    Attributes:
        f: the map ``f(z, u)`` with this call's dropout masks.
        u: everything that f needs and that does not depend on z.
        solution: the fixed point and how it was found. In a warm-up stage, where the cell was only
            applied some times, its value is where that led, and the status is NOT_RUN.
        layer: where it is in the model, as "encoder.deq".
        form: "coupled", "segments" and "has_aux" of the layer, as
            [`deqjax.jacobian_penalty`][] and [`deqjax.spectral_radius`][] take them.
        max_steps: the layer's own step limit.
        tol: the layer's own tolerance.
        adjoint: the layer's own rule for the gradient, None for the default.
    """

    f: Map
    u: Operands
    solution: Solution
    layer: str
    form: dict[str, Any]
    max_steps: Scalar
    tol: Scalar
    adjoint: Adjoint | None = None


class Observable:
    """The base of a module, NNX's or Linen's, that is an equilibrium layer.

    Attributes:
        observer: set on an NNX layer itself while its model is observed.
    """

    observer: ClassVar["Observer | None"] = None


Limit = Scalar | Callable[[Scalar], Scalar]
Solve = Callable[..., Solution]
"""(f, z0, probe, tol, max_steps) -> the layer's own solve."""


class Observation:
    """What the equilibrium layers of a model did during a call, in the order of their calls.

    Attributes:
        solves: one [`deqjax.nn.ObservedSolve`][] for each call of a layer.
        ended: whether the model is observed no more.
    """

    def __init__(
        self,
        probes: Sequence[BackwardStats] | None,
        tol: Scalar | None,
        max_steps: Limit | None,
        layers: int | None,
    ) -> None:
        self.solves: list[ObservedSolve] = []
        self._probes, self._tol, self._max_steps, self._layers = probes, tol, max_steps, layers
        self._trace = get_opaque_trace_state(convention="nnx")
        self.ended = False

    @property
    def samples(self) -> tuple[int, ...]:
        """How many samples each of the solves had: the lengths of their probes."""
        return tuple(each.solution.stats.status.shape[0] for each in self.solves)

    def call(
        self,
        layer: Layer,
        name: str,
        solve: Solve,
        f: Map,
        u: Operands,
        z0: State,
        *,
        probe: BackwardStats | None,
        tol: Scalar | None,
        max_steps: Scalar | None,
        segments: Any,
    ) -> Solution:
        """Solve for a layer as the observer wishes, and note what was found."""
        if is_unobserved():
            return solve(f, z0, probe=probe, tol=tol, max_steps=max_steps)
        if get_opaque_trace_state(convention="nnx") != self._trace:
            raise ObservationError(
                f"the equilibrium layer {name} is called inside a transform of the model's own "
                "(jit, vmap, scan, remat, ...), where what it solves cannot be observed; call the "
                "layer outside of it, transform the cell instead, or observe inside of the "
                "transform."
            )
        form = {"coupled": layer.coupled, "segments": segments, "has_aux": layer.has_aux}
        with unobserved():
            if self._layers is not None:
                solution = _applied(layer, f, u, z0, self._layers, form)
            else:
                solution = solve(
                    f,
                    z0,
                    probe=self._probe() if probe is None else probe,
                    tol=self._tol if tol is None else tol,
                    max_steps=self._limit(layer, max_steps),
                )
        shown = f
        if layer.numbered:
            applied = self._layers
            step = last_step(solution) if applied is None else jnp.int32(applied)
            shown = _at_step(f, step)
        used = {
            key: value for key, value in form.items() if value is not None and value is not False
        }
        self.solves.append(
            ObservedSolve(shown, u, solution, name, used, layer.max_steps, layer.tol, layer.adjoint)
        )
        return solution

    def intercept(self, method: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
        """Linen's interceptor: as `call` for the layers among the modules, others as they are."""
        layer = context.module
        is_call = isinstance(layer, Observable) and context.method_name == "__call__"
        if not is_call or is_unobserved() or layer.is_initializing():
            return method(*args, **options)
        return layer.observed(self, method, *args, **options)

    def _probe(self) -> BackwardStats | None:
        if self._probes is None:
            return None
        index = len(self.solves)
        if index >= len(self._probes):
            raise ObservationError(
                f"{len(self._probes)} probe(s) were given, but the model solves more often."
            )
        return self._probes[index]

    def _limit(self, layer: Layer, own: Scalar | None) -> Scalar | None:
        limit = self._max_steps
        if callable(limit):
            return limit(layer.max_steps if own is None else own)
        return limit if own is None else own


class Observer:
    """What an observed layer holds, and each copy that a transform makes of it.

    It keeps no observation alive: JAX's caches hold on to copies, and with them to what they hold.
    """

    def __init__(self, seen: Observation, name: str) -> None:
        self._seen, self.name = weakref.ref(seen), name

    def observation(self) -> Observation | None:
        """Who observes, unless that has ended."""
        seen = self._seen()
        return None if seen is None or seen.ended else seen


@contextlib.contextmanager
def observe(
    model: nnx.Module,
    *,
    probes: Sequence[BackwardStats] | None = None,
    tol: Scalar | None = None,
    max_steps: Limit | None = None,
    layers: int | None = None,
) -> Iterator[Observation]:
    """Observe the equilibrium layers of a model, at any depth, while it is called.

    Finds every [`deqjax.nn.DEQ`][] among the model's modules, and every [`deqjax.linen.DEQ`][] that
    runs inside the context, as in a Linen model behind ``nnx.bridge.ToNNX``. A layer inside another
    one's cell is solved as it always is, and not observed.

    Args:
        model: an NNX module.
        probes: [`deqjax.backward_probe`][] for each solve, in the order of the calls; a call that
            has one of its own keeps that.
        tol: for every solve, instead of the layer's own; may be traced. A call that has one of its
            own keeps that.
        max_steps: likewise; or a function that makes it of the layer's or the call's own.
        layers: instead of solving, apply each cell so many times and differentiate through all of
            them: the published warm-up stage.

    Yields:
        An [`Observation`][deqjax.nn.Observation], which fills as the model is called.

    Raises:
        ObservationError: a layer is called inside a transform of the model's own (where its values
            would leak), more solves take place than there are probes, or the model is observed
            already.
        ValueError: layers below 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from deqjax.nn import DEQ, observe
        >>> class Model(nnx.Module):
        ...     def __init__(self):
        ...         self.deq = DEQ(lambda z, u: 0.5 * z + u)
        ...
        ...     def __call__(self, x):
        ...         return self.deq(x).value
        >>> model = Model()
        >>> with observe(model, tol=1e-6) as seen:
        ...     output = model(jnp.ones((4, 3)))
        >>> print(seen.solves[0].layer, seen.samples, bool((output > 1.999).all()))
        deq (4,) True
    """
    if layers is not None and layers < 1:
        raise ValueError(f"layers must be at least 1, got {layers}.")
    seen = Observation(probes, tol, max_steps, layers)
    found = {
        ".".join(map(str, path)) or "model": node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, Observable)
    }
    if any(node.observer and node.observer.observation() for node in found.values()):
        raise ObservationError("the model is observed already; one observation at a time.")
    try:
        for name, node in found.items():
            object.__setattr__(node, "observer", Observer(seen, name))
        with flax.linen.intercept_methods(seen.intercept), _OBSERVING(True):
            yield seen
    finally:
        seen.ended = True
        for node in found.values():
            # a transform of the model's own may have put another one there, or none
            vars(node).pop("observer", None)


def _at_step(f: Map, step: jax.Array) -> Map:
    return lambda z, u: f(z, u, step=step)


def _applied(
    layer: Layer, f: Map, u: Operands, z: State, layers: int, form: dict[str, Any]
) -> Solution:
    """The state after some applications, as a solution of samples that were not solved."""
    inward, _ = take_form(z, **form)
    none = jnp.zeros(batch_size(inward), jnp.int32)
    aux = None
    states = [z]
    for number in range(layers):
        step = {"step": jnp.int32(number)} if layer.numbered else {}
        z = f(z, u, **step)
        if layer.has_aux:
            z, aux = z
        states.append(z)
    # what a model looks at in a solution must be there now, too
    asked = getattr(layer.solver, "keywords", {})
    unmeasured = none.astype(jnp.float32)
    length = asked.get("trace")
    trace = jnp.full((length, *none.shape), jnp.nan) if length else None
    steps = asked.get("trajectory")
    chosen = [states[min(step, layers)] for step in steps or ()]
    trajectory = jax.tree.map(lambda *each: jnp.stack(each), *chosen) if chosen else None
    stats = Stats(none, unmeasured, none, jnp.int32(layers), trace)
    return Solution(z, stats, trajectory, aux=aux)

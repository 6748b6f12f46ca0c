"""Programs of XLA, read: of this CPU as it writes them, of a TPU as it wrote them once."""

import jax
import jax.numpy as jnp
import pytest

from deqjax.training.estimate._limits import ONCE, Limits
from deqjax.training.estimate._program import arrays, read_program, repeats, size_of
from deqjax.training.estimate._traffic import Collective, traffic

TPU = """HloModule jit_step, is_scheduled=true

%counts (counter.1: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5), metadata={op_name="jit(step)"}
  %counter.1 = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %number = s32[]{:T(128)} get-tuple-element(%counter.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%number, %limit), direction=LT
}

%goes_on (carry.1: (s32[], pred[], f32[8])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, pred[]{:T(512)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %running = pred[]{:T(512)} get-tuple-element(%carry.1), index=1
}

%body.1 (p.1: (s32[], pred[], f32[8])) -> (s32[], pred[], f32[8]) {
  %p.1 = (s32[]{:T(128)}, pred[]{:T(512)}, f32[8]{0:T(128)}) parameter(0)
  %z.1 = f32[8]{0:T(128)} get-tuple-element(%p.1), index=2
  %norm = f32[]{:T(128)} all-reduce(%z.1), metadata={op_name="jit(s)/jvp()/psum"}
  ROOT %tuple.1 = (s32[], pred[], f32[8]{0:T(128)}) tuple(%z.1, %z.1, %z.1)
}

%body.2 (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.2 = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %z.2 = f32[8]{0:T(128)S(1)} get-tuple-element(%p.2), index=1
  %twice = f32[8]{0:T(128)} add(%z.2, %z.2), metadata={op_name="jit(s)/transpose(jvp())/add"}
  ROOT %tuple.2 = (s32[], f32[8]{0:T(128)}) tuple(%z.2, %twice)
}

%starts (p.3: f32[2]) -> (f32[2], f32[8]) {
  %p.3 = f32[2]{0} parameter(0)
  %gather.1 = f32[8]{0} all-gather(%p.3), frontend_attributes={chain_id="0"}
  ROOT %call.1 = (f32[2], f32[8]) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%goes_along (p.4: f32[2], p.5: f32[8]) -> f32[8] {
  %p.4 = f32[2]{0} parameter(0)
  %p.5 = f32[8]{0:T(128)S(1)} parameter(1)
  %gather.2 = f32[8]{0} all-gather(%p.4), frontend_attributes={chain_id="0"}
  ROOT %sum = f32[8]{0:T(128)S(1)} add(%p.5, %p.5)
}

ENTRY %main.7_spmd (x: f32[100,50], /*index=1*/y: f32[8]) -> f32[8] {
  %x = f32[100,50]{1,0:T(8,128)} parameter(0)
  %y = f32[8]{0:T(128)} parameter(1)
  %copy-start.1 = (f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%y)
  %copy-done.1 = f32[8]{0:T(128)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[100,50]{1,0}), f32[10,50]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)
  %part = f32[2]{0:S(1)} bitcast(%y)
  %fusion.1 = (f32[2]{0:S(1)}, f32[8]{0:S(1)}) fusion(%part), kind=kCustom, calls=%starts
  %fusion.2 = f32[8]{0:S(1)} fusion(%part, %copy-done.1), kind=kCustom, calls=%goes_along
  %gather = (f32[2]{0}, f32[8]{0}) all-gather-start(%y), metadata={op_name="jit(s)/optimizer/x"}
  %loop.1 = (s32[], pred[], f32[8]{0:T(128)}) while(%y), condition=%goes_on, body=%body.1, NAMED
  ROOT %loop.2 = (s32[], f32[8]{0:T(128)S(1)}) while(%y), condition=%counts, body=%body.2, NAMED
}
""".replace("NAMED", 'metadata={op_name="jit(s)/jvp()/while"}')


def test_shapes_have_bytes_and_a_place():
    assert size_of("(bf16[3,5]{1,0:T(8,128)(2,1)}, s32[], pred[7]{0})") == 30 + 4 + 7
    assert list(arrays("f32[2,2]{1,0:T(8,128)S(1)}")) == [(16, False)]
    assert list(arrays("f32[2,2]{1,0:T(8,128)}")) == [(16, True)]
    assert size_of("s4[3]") == 2


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read_program("HloModule x")


def test_a_loop_that_counts_tells_how_often_it_repeats():
    entry = read_program(TPU).computations["main.7_spmd"]
    assert repeats(read_program(TPU), entry["loop.1"]) is None
    assert repeats(read_program(TPU), entry["loop.2"]) == 5


BRANCHES = """
%yes (p.1: f32[8]) -> f32[8] {
  ROOT %p.1 = f32[8]{0} parameter(0)
}

%no (p.2: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} add(%p.2, %p.2)
}

ENTRY %main (x: (pred[], f32[8])) -> f32[8] {
  %x = (pred[], f32[8]{0}) parameter(0)
  %which = pred[] get-tuple-element(%x), index=0
  %y = f32[8]{0} get-tuple-element(%x), index=1
  ROOT %z = f32[8]{0} conditional(%which, %y, %y), true_computation=%yes, false_computation=%no
}
"""


def test_the_branches_of_a_truth_value_are_found_and_the_longer_counts():
    program = read_program(BRANCHES)
    entry = program.computations["main"]
    assert entry["z"].called == ("yes", "no")
    assert (entry["which"].number, entry["y"].number) == (0, 1)
    assert traffic(program, ONCE).memory.total() == 3 * 32


CONDITIONS = """
%both (a: s32[], b: pred[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = pred[] parameter(1)
  %limit = s32[] constant(9)
  %early = pred[] compare(%a, %limit), direction=LT
  ROOT %and = pred[] and(%early, %b)
}

%goes_on (p: (s32[], pred[])) -> pred[] {
  %p = (s32[], pred[]) parameter(0)
  %number = s32[] get-tuple-element(%p), index=0
  %running = pred[] get-tuple-element(%p), index=1
  FUSION
}

ENTRY %main (x: (s32[], pred[])) -> (s32[], pred[]) {
  %x = (s32[], pred[]) parameter(0)
  ROOT %loop = (s32[], pred[]) while(%x), condition=%goes_on, body=%goes_on
}
""".replace("FUSION", "ROOT %f = pred[] fusion(%number, %running), kind=kLoop, calls=%both")


def test_a_loop_that_counts_and_may_stop_before_is_of_unknown_length():
    program = read_program(CONDITIONS)
    assert repeats(program, program.computations["main"]["loop"]) is None
    alone = read_program(
        CONDITIONS.replace("  ROOT %and", "  %and").replace("%early", "ROOT %early", 1)
    )
    assert repeats(alone, alone.computations["main"]["loop"]) == 9


def test_what_a_program_moves():
    found = traffic(read_program(TPU), Limits(forward=13, backward=7, penalized=0.5))
    # the copy's one end; the slice's; five times one result; what collectives move besides
    assert found.memory["rest"] == 32 + 2000
    assert found.memory["backward"] == 5 * 32
    assert found.memory["forward"] == 13 * (32 + 4)
    assert found.collectives() == [
        Collective("all-reduce", "forward", True, None, 13, 13 * 32.0),
        Collective("all-gather", "rest", False, None, 1, 32.0),
        Collective("all-gather", "optimizer", False, None, 1, 32.0),
    ]


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def test_bytes_are_those_of_xlas_own_count():
    def loss(w, x):
        return jnp.sum(jax.nn.softmax(jnp.tanh(x @ w)) ** 2)

    found = compiled(jax.grad(loss), jnp.ones((64, 32)), jnp.ones((128, 64)))
    expected = found.cost_analysis()["bytes accessed"]
    assert traffic(read_program(found.as_text()), ONCE).memory.total() == pytest.approx(
        expected, rel=0.01
    )


def test_what_is_cut_out_of_a_table_is_read_not_the_table():
    table, index = jnp.ones((10_000, 64)), jnp.arange(8)
    found = compiled(lambda table, index: jnp.tanh(table[index]), table, index)
    moved = traffic(read_program(found.as_text()), ONCE).memory.total()
    assert 2 * 8 * 64 * 4 <= moved < 10 * 8 * 64 * 4


def solve(x, most):
    """A branch that counts as a penalty, a loop that counts, and one that does not."""

    def body(carry):
        return jnp.sin(carry[0]), carry[1] + 1

    with jax.named_scope("penalty"):
        x = jax.lax.cond(x[0] > 0, jnp.cos, lambda x: x, x)
    x = jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x), x)
    return jax.lax.while_loop(lambda carry: carry[1] < most, body, (x, 0))[0]


def test_branches_and_loops_of_unknown_length_count_as_often_as_is_said():
    size = 4 * 4096

    def forward(x, most):
        return jax.jvp(lambda x: solve(x, most), (x,), (x,))[0]

    program = read_program(compiled(forward, jnp.ones(4096), 5).as_text())
    once = traffic(program, ONCE).memory
    more = traffic(program, Limits(forward=11, backward=1, penalized=0.25)).memory
    # each pass reads and writes the state, and compares two numbers
    assert more["forward"] - once["forward"] == pytest.approx(10 * 2 * size, rel=0.01)
    assert once["forward"] > (3 + 1) * 2 * size
    assert more["penalty"] == pytest.approx(0.25 * once["penalty"], rel=0.01)

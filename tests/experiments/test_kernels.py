"""Kernels counted in the text of compiled programs."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments/benchmarks"

# a loop of five passes over f32[4,8] with a ring of three columns, and a loop of two passes inside
TEXT = """\
HloModule jit_run, is_scheduled=true

%ring (p.0: f32[4,3,8], p.1: f32[4,8], p.2: s32[]) -> f32[4,3,8] {
  %p.0 = f32[4,3,8]{2,1,0} parameter(0)
  %p.1 = f32[4,8]{1,0} parameter(1)
  %reshaped = f32[4,1,8]{2,1,0} bitcast(%p.1)
  %p.2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[4,3,8]{2,1,0} dynamic-update-slice(%p.0, %reshaped, %zero, %p.2, %zero)
}

%column (q.0: f32[4,3,8], q.1: s32[]) -> f32[4,8] {
  %q.0 = f32[4,3,8]{2,1,0} parameter(0)
  %q.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  %slice = f32[4,1,8]{2,1,0} dynamic-slice(%q.0, %zero.1, %q.1, %zero.1)
  ROOT %flat = f32[4,8]{1,0} bitcast(%slice)
}

%inner_body (i: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %i = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.0 = s32[] get-tuple-element(%i), index=0
  %i.1 = f32[4,8]{1,0} get-tuple-element(%i), index=1
  %twice = f32[4,8]{1,0} add(%i.1, %i.1)
  ROOT %inner_result = (s32[], f32[4,8]{1,0}) tuple(%i.0, %twice)
}

%always (c: (s32[], f32[4,8])) -> pred[] {
  %c = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%body (s: (s32[], f32[4,8], f32[4,3,8])) -> (s32[], f32[4,8], f32[4,3,8]) {
  %s = (s32[], f32[4,8]{1,0}, f32[4,3,8]{2,1,0}) parameter(0)
  %s.0 = s32[] get-tuple-element(%s), index=0
  %s.1 = f32[4,8]{1,0} get-tuple-element(%s), index=1
  %s.2 = f32[4,3,8]{2,1,0} get-tuple-element(%s), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%s.0, %one)
  %written = f32[4,3,8]{2,1,0} fusion(%s.2, %s.1, %s.0), kind=kLoop, calls=%ring
  %read = f32[4,8]{1,0} fusion(%written, %s.0), kind=kLoop, calls=%column
  %start = (s32[], f32[4,8]{1,0}) tuple(%s.0, %read)
  %inner = (s32[], f32[4,8]{1,0}) while(%start), condition=%always, body=%inner_body, PASSES
  %state = f32[4,8]{1,0} get-tuple-element(%inner), index=1
  %summed = f32[4,8]{1,0} all-reduce(%state), replica_groups={}
  ROOT %result = (s32[], f32[4,8]{1,0}, f32[4,3,8]{2,1,0}) tuple(%next, %summed, %written)
}

%goes_on (g: (s32[], f32[4,8], f32[4,3,8])) -> pred[] {
  %g = (s32[], f32[4,8]{1,0}, f32[4,3,8]{2,1,0}) parameter(0)
  %g.0 = s32[] get-tuple-element(%g), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%g.0, %five), direction=LT
}

ENTRY %main (a: f32[4,8], b: f32[4,3,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[4,3,8]{2,1,0} parameter(1)
  %copied = f32[4,8]{1,0} copy(%a)
  %none = s32[] constant(0)
  %begin = (s32[], f32[4,8]{1,0}, f32[4,3,8]{2,1,0}) tuple(%none, %copied, %b)
  %loop = (s32[], f32[4,8]{1,0}, f32[4,3,8]{2,1,0}) while(%begin), condition=%goes_on, body=%body
  ROOT %end = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""
TEXT = TEXT.replace("PASSES", 'backend_config={"known_trip_count":{"n":"2"}}')
STATE = 4 * 4 * 8  # bytes


@pytest.fixture
def hlo(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("hlo")


def test_a_loop_has_the_kernels_of_its_body_and_those_of_loops_inside(hlo):
    (loop,) = hlo.kernels_of_loops(TEXT)
    assert loop.name == "body"
    assert loop.kernels == {"fusion": 2, "while": 1, "collective": 1}
    (inner,) = loop.inner
    assert (inner.kernels, inner.trips) == ({"add": 1}, 2)
    assert loop.total == 3 + 2 * 1


def test_of_a_slice_only_the_slice_is_moved(hlo):
    (loop,) = hlo.kernels_of_loops(TEXT)
    written, read, summed = 2 * STATE, 2 * STATE, 2 * STATE
    counters = 2 * 4  # the scalar operands of the two fusions
    assert loop.moved == written + read + summed + counters


def test_what_must_move_is_each_state_once(hlo):
    (loop,) = hlo.kernels_of_loops(TEXT)
    counter, state, ring = 2 * 4, 2 * STATE, 3 * STATE + STATE
    assert loop.must == counter + state + ring


def test_a_program_outside_its_loops(hlo):
    assert hlo.kernels_of_program(TEXT) == {"copy": 1, "while": 1}
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.kernels_of_program("nothing")


def test_what_is_counted_for_this_machine_is_written(hlo, tmp_path):
    kernels = importlib.import_module("kernels")
    arguments = ["--topology", "here", "--sections", "penalty", "--batch", "2", "--width", "4"]
    kernels.main([*arguments, "--peers", "--out", str(tmp_path)])
    one, three = json.loads((tmp_path / "kernels.json").read_text())["penalty"]
    assert (one["state"], three["state"]) == ("one", "three")
    assert one["kernels"] == sum(one["by kind"].values()) > 0


@pytest.mark.libtpu
def test_a_step_on_a_tpu_is_few_kernels(hlo):
    kernels = importlib.import_module("kernels")
    problem = kernels.problems(32, 256, kernels.placed("v5e:2x2"))[0]
    rows = {row["solver"]: row["kernels beyond f"] for row in kernels.of_solvers(problem, ())}
    assert rows["deqjax anderson"] <= 12
    assert rows["deqjax picard"] <= 4
    assert rows["deqjax reversible"] <= 6
    assert rows["deqjax broyden"] <= 13

"""Estimates as a reader sees them."""

import io
import json

from rich.console import Console

from deqjax.training.estimate import CHIPS, Estimate, estimate_as_json, print_estimate
from deqjax.training.estimate._limits import Limits
from deqjax.training.estimate._memory import Memory
from deqjax.training.estimate._parts import PARTS
from deqjax.training.estimate._roofline import roofline
from deqjax.training.estimate._traffic import Collective

FLOP = dict.fromkeys(PARTS, 1.97e12)
MOVED = dict.fromkeys(PARTS, 8.19e9)
GIB = 2**30
EXCHANGES = [
    Collective("all-gather", "rest", False, None, 3, 1.5e9),
    Collective("all-reduce", "forward", True, None, 13, 52.0),
]
FITS = Estimate(
    name="large",
    target="v5e:2x4",
    devices=8,
    parallel="sharded",
    rows=64,
    parameters=1_126_933_770,
    limits=Limits(13, 14, 0.35),
    memory=Memory(2 * GIB, 0, 3 * GIB, GIB // 4, 5 * GIB + GIB // 4, 16 * GIB),
    flop=FLOP,
    moved=MOVED,
    collectives=EXCHANGES,
    seconds=roofline(FLOP, MOVED, EXCHANGES, CHIPS["v5e"], 8),
    compiled_in=60.0,
)
REFUSED = FITS._replace(
    parallel="pmap",
    memory=Memory(None, None, None, None, 21 * GIB, 15 * GIB),
    moved=None,
    collectives=None,
    seconds=None,
)


def printed(found):
    out = io.StringIO()
    print_estimate(found, Console(file=out, width=200))
    return out.getvalue()


def test_what_fits_is_told_part_by_part():
    text = printed(FITS)
    assert "large: 1,126,933,770 parameters, 64 rows a step, sharded on 8 devices (v5e:2x4)" in text
    assert "It fits: 5.25 GiB of 16.00 GiB on each device." in text
    assert "│ backward  │ 1.97 T │      8.19 G │ 10.0 ms │" in text
    assert "│ together  │ 9.85 T │     40.95 G │ 50.0 ms │" in text
    assert "│ all-gather │ all else │      3 │ 1.5 G │              once │" in text
    assert "in a solve's loop" in text
    assert (
        "A step takes 56.6 ms at the least (6.6 ms of it exchanges), on chips of 197 TFLOP/s"
        in text
    )
    assert CHIPS["v5e"].source in text
    assert "  - every solve takes all of its steps, forward and backward" in text
    assert "Planned for this CPU" not in text


def test_what_does_not_fit_is_told_as_far_as_it_is_known():
    text = printed(REFUSED)
    assert "It does not fit: 21.00 GiB of 15.00 GiB on each device, and the compiler" in text
    assert "│ forward   │ 1.97 T │             │      │" in text
    assert "exchanges" not in text


def test_json_says_the_same():
    found = json.loads(estimate_as_json(FITS))
    assert found["memory"]["fits"] is True
    assert found["seconds"]["total"] == FITS.seconds.total
    assert found["chip"]["source"] == CHIPS["v5e"].source
    assert found["collectives"][0] == EXCHANGES[0]._asdict()
    assert found["limits"]["backward"] == 14
    refused = json.loads(estimate_as_json(REFUSED))
    assert refused["memory"]["fits"] is False
    assert refused["seconds"] is refused["collectives"] is None

"""The comparison of reasoners with published outputs, on cases that a reference makes."""

import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("compile_fast")

CASES = {
    "board": {"pos_encodings": "rope2d", "L_layers": 1},
    "undamped_mixed_by_a_feed_forward": {
        "mlp_t": True,
        "lambda_": 1.0,
        "L_cycles": 1,
        "H_cycles": 1,
    },
}


@pytest.fixture(scope="module")
def modules():
    """The script and the reference, which import nothing of each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        patch.syspath_prepend(str(ROOT / "tests" / "convert"))
        yield [importlib.import_module(name) for name in ("golden", "reference_reasoner")]


@pytest.mark.parametrize("name", list(CASES))
def test_every_kind_of_model_agrees(name, modules, tmp_path, capsys):
    modules[1].write_case(tmp_path, f"reasoner_{name}", CASES[name])
    assert modules[0].main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "6 comparisons" in printed
    assert float(printed.rsplit("largest error", 1)[1]) < 2e-5


def test_what_is_wrong_fails(modules, tmp_path, capsys):
    modules[1].write_case(tmp_path, "reasoner_case", CASES["board"])
    file = tmp_path / "reasoner_case.npz"
    arrays = dict(np.load(file))
    last = "grad.L_level.layers.0.mlp.down_proj.weight"
    for name in ("one_L", "deep_H", "logits", "q", last):
        arrays[name].flat[3] += 1e-3 * np.max(np.abs(arrays[name]))
    arrays["loss"] *= 1.001
    np.savez(file, **arrays)
    assert modules[0].main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    for quantity in ("cycle", "pass", "logits", "halting", "loss", "gradient"):
        assert f"reasoner_case: the error of {quantity} is" in printed

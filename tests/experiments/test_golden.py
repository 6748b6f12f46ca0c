"""The comparison with published outputs, on cases that an independent reference makes."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from deqjax import solvers

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("compile_fast")

BASE = {
    "vocab_size": 23,
    "d_model": 8,
    "num_heads": 2,
    "d_head": 4,
    "d_inner": 12,
    "d_embed": 8,
    "cutoffs": [],
    "div_val": 1,
    "tie_weights": True,
    "tie_projs": [False],
    "pre_layer_norm": False,
    "weight_norm": False,
    "target_length": 4,
    "memory_length": 5,
    "local_size": 1000,
}
CASES = {
    "pre_norm_local_clusters_of_one_untied_table": {
        "pre_layer_norm": True,
        "weight_norm": True,
        "local_size": 3,
        "cutoffs": [5, 11],
        "tie_weights": False,
        "tie_projs": [False, True, True],
    },
    "one_table_projected_per_cluster": {
        "d_embed": 6,
        "cutoffs": [5, 11],
        "tie_projs": [True, False, True],
    },
    "wider_tables_pre_norm_short_memory": {
        "d_embed": 12,
        "cutoffs": [5, 11],
        "div_val": 2,
        "tie_projs": [False, True, True],
        "pre_layer_norm": True,
        "memory_length": 2,
    },
    "indivisible_untied_tables_tied_projection": {
        "d_embed": 7,
        "cutoffs": [9],
        "div_val": 3,
        "tie_weights": False,
        "tie_projs": [True, False],
        "weight_norm": True,
        "local_size": 2,
    },
}


@pytest.fixture(scope="module")
def modules():
    """The script and the reference, which import nothing of each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        patch.syspath_prepend(str(ROOT / "tests" / "convert"))
        names = "golden", "reference_transformer", "golden_case"
        yield [importlib.import_module(name) for name in names]


@pytest.fixture(scope="module")
def golden(modules):
    return modules[0]


@pytest.fixture(scope="module")
def write_case(modules):
    return modules[1].write_case


BARE = "one_table_projected_per_cluster"
PLAIN = BASE | CASES[BARE]


@pytest.mark.parametrize("name", list(CASES))
def test_every_kind_of_model_agrees(name, golden, write_case, tmp_path, capsys):
    config = BASE | CASES[name]
    write_case(tmp_path, f"deq_transformer_{name}", config, bare_projections=name == BARE)
    assert golden.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "14 comparisons" in printed
    # float32 with room for a Jacobian that is hard to solve with
    assert float(printed.rsplit("largest error", 1)[1]) < 2e-5


@pytest.fixture(scope="module")
def plain(write_case, tmp_path_factory):
    """A case to spoil copies of; what compares it is compiled already."""
    folder = tmp_path_factory.mktemp("cases")
    write_case(folder, "deq_transformer_plain", PLAIN, bare_projections=True)
    return {file.suffix: file.read_bytes() for file in folder.iterdir()}


def copy_of(plain, folder, name="deq_transformer_plain"):
    for suffix, content in plain.items():
        (folder / f"{name}{suffix}").write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    "quantity", ["f_z_0", "Jv_1", "vJ_0", "z_star_1", "nll_0", "mem_z_0", "mem_u_1"]
)
def test_one_wrong_element_fails(quantity, golden, plain, tmp_path, capsys):
    file = copy_of(plain, tmp_path).with_suffix(".npz")
    arrays = dict(np.load(file))
    arrays[quantity].flat[3] += 1e-3 * np.max(np.abs(arrays[quantity]))
    np.savez(file, **arrays)
    assert golden.main([str(tmp_path)]) == 1
    assert f"segment {quantity[-1]}: the error of" in capsys.readouterr().out


def test_a_failing_case_leaves_the_others_running(golden, plain, tmp_path, capsys):
    copy_of(plain, tmp_path)
    copy_of(plain, tmp_path, "deq_transformer_broken").with_suffix(".pth").write_bytes(b"")
    config = copy_of(plain, tmp_path, "deq_transformer_other").with_suffix(".json")
    config.write_text(json.dumps(PLAIN | {"d_inner": 13}))
    copy_of(plain, tmp_path, "deq_transformer_partial").with_suffix(".npz").unlink()
    assert golden.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "deq_transformer_plain, segment 1" in printed
    for name, reason in (
        ("broken", "damaged or not a PyTorch checkpoint"),
        ("other", "func.pos_ff.ff1_net.weight has shape (12, 8) instead of (13, 8)"),
        ("partial", "deq_transformer_partial.npz not found"),
    ):
        assert f"deq_transformer_{name} failed: " in printed
        assert reason in printed


def test_lacking_array_is_named(golden, plain, tmp_path, capsys):
    file = copy_of(plain, tmp_path).with_suffix(".npz")
    arrays = dict(np.load(file))
    del arrays["vJ_1"]
    np.savez(file, **arrays)
    assert golden.main([str(tmp_path)]) == 1
    assert "lacks 'vJ_1'" in capsys.readouterr().out


def test_models_without_converter_are_listed(golden, plain, tmp_path, capsys):
    copy_of(plain, tmp_path)
    (tmp_path / "other_model.json").write_text("{}")
    assert golden.main([str(tmp_path)]) == 0
    assert "no converter yet" in capsys.readouterr().out


@pytest.mark.parametrize("names", [[], ["other_model.pth"]], ids=["empty", "nothing_converts"])
def test_nothing_compared_is_no_success(names, golden, tmp_path, capsys):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert golden.main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ours", "error"),
    [([4.0, 3.0], 0.0), ([4.0, 2.0], 0.25), ([4.0, np.nan], np.nan), ([3.0, 2.0], 2**0.5 / 5)],
)
def test_relative_error_is_the_larger_of_both(ours, error, modules):
    found = modules[2].relative_error(np.array(ours), np.array([4.0, 3.0]))
    np.testing.assert_allclose(found, error)


def test_where_anderson_stops_short_newton_goes_on(
    golden, write_case, tmp_path, monkeypatch, capsys
):
    real = solvers.anderson

    def weak(f, z0, *, max_steps, **options):
        return real(f, z0, max_steps=1, **options)

    monkeypatch.setattr(solvers, "anderson", weak)
    # a shape that no other test has: what they compiled has the real one in it
    write_case(tmp_path, "deq_transformer_hard", BASE | {"d_inner": 10})
    assert golden.main([str(tmp_path)]) == 0
    assert "residual" not in capsys.readouterr().out

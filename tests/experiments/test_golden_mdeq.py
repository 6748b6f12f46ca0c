"""The comparison of MDEQs with published outputs, on cases that an independent reference makes."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("compile_fast")

BASE = {"task": "cls", "final": 5, "down": 0, "groups": 2, "exp": 2, "num_layers": 3}
CASES = {  # options, size of the images, seed, how many images
    "four_branches_affine_after_fusion": (
        {"channels": [2, 4, 4, 8], "head": [1, 1, 2, 1], "post_affine": True},
        (16, 16),
        0,
        1,
    ),
    "one_branch_halved_three_times_big_kernels_no_weight_norm": (
        {"channels": [4], "head": [1], "down": 3, "big": 2, "wn": False},
        (32, 48),
        0,
        2,
    ),
    "segmentation_norms_without_parameters_one_big_kernel": (
        {
            "task": "seg",
            "channels": [4, 2],
            "down": 2,
            "exp": 3,
            "big": [1, 2],
            "classes": 3,
            "block_affine": False,
            "fuse_affine": False,
            "num_layers": 2,
        },
        (16, 32),
        13,
        2,
    ),
    "three_branches_halved_once_no_weight_norm": (
        {"channels": [2, 2, 4], "head": [1, 1, 2], "down": 1, "big": 1, "wn": False},
        (16, 16),
        0,
        1,
    ),
}
NAME = "one_branch_halved_three_times_big_kernels_no_weight_norm"


@pytest.fixture(scope="module")
def modules():
    """The script and the reference, which import nothing of each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        patch.syspath_prepend(str(ROOT / "tests" / "convert"))
        yield [importlib.import_module(name) for name in ("golden", "reference_mdeq")]


def write(modules, folder, name):
    options, *sizes = CASES[name]
    modules[1].write_case(folder, f"mdeq_{name}", BASE | options, *sizes)


@pytest.mark.parametrize("name", list(CASES))
def test_every_kind_of_model_agrees(name, modules, tmp_path, capsys):
    write(modules, tmp_path, name)
    assert modules[0].main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "7 comparisons" in printed
    assert "residual" not in printed
    # float32 with room for a Jacobian that is hard to solve with
    assert float(printed.rsplit("largest error", 1)[1]) < 2e-5


@pytest.fixture(scope="module")
def case(modules, tmp_path_factory):
    """A case to spoil copies of."""
    folder = tmp_path_factory.mktemp("cases")
    write(modules, folder, NAME)
    return {file.suffix: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def copied(case, tmp_path):
    for suffix, content in case.items():
        (tmp_path / f"mdeq_case{suffix}").write_bytes(content)
    return tmp_path / "mdeq_case"


def spoil(copied, change):
    file = copied.with_suffix(".npz")
    arrays = dict(np.load(file))
    change(arrays)
    np.savez(file, **arrays)


def add_to(name):
    def change(arrays):
        arrays[name].flat[3] += 1e-3 * np.max(np.abs(arrays[name]))

    return change


def drop(name):
    return lambda arrays: arrays.pop(name)


def narrow(name):
    return lambda arrays: arrays.update({name: arrays[name][..., :1]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (add_to("f_z_0"), "mdeq_case: the error of f(z) is"),
        (add_to("Jv_0"), "mdeq_case: the error of Jv is"),
        (add_to("vJ_0"), "mdeq_case: the error of vJ is"),
        (add_to("z_star_0"), "mdeq_case: the error of z* is"),
        (add_to("injection"), "mdeq_case: the error of injection is"),
        (add_to("output"), "mdeq_case: the error of output is"),
        (add_to("output_unrolled"), "mdeq_case: the error of unrolled is"),
        (drop("vJ_0"), "lacks 'vJ_0'"),
        (narrow("z_0"), "z_0 has shape (2, 4, 6, 1), but the images and the configuration make it"),
    ],
    ids=["f_z", "Jv", "vJ", "z_star", "injection", "output", "unrolled", "absent", "shape"],
)
def test_what_is_wrong_fails(change, sentence, modules, copied, capsys):
    spoil(copied, change)
    assert modules[0].main([str(copied.parent)]) == 1
    assert sentence in capsys.readouterr().out


def test_the_number_of_layers_is_found_where_nothing_says_it(modules, copied, capsys):
    file = copied.with_suffix(".json")
    config = json.loads(file.read_text())
    del config["num_layers"]
    file.write_text(json.dumps(config))
    assert modules[0].main([str(copied.parent)]) == 0
    assert "applied 3 times" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_options_that_do_not_fit_the_checkpoint_fail(modules, copied, capsys):
    file = copied.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"final": 6}))
    assert modules[0].main([str(copied.parent)]) == 1
    assert "final_layer.0.weight has shape (5, 4, 1, 1) instead of (6, 4, 1, 1)" in (
        capsys.readouterr().out
    )

"""Attractor language models against an independent reference, in configurations of many kinds."""

import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("compile_fast")

CASES = {
    "grouped_keys_untied_gated_deep_head": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "n_embd": 16,
        "tie_embeddings": False,
        "mlp_class_name": "GatedMLP",
        "nonlin_name": "SiLU",
        "n_fp_blocks": 2,
        "n_backbone_layers": 1,
        "logit_softcap": 3.0,
        "gamma_max": 1.0,
        "layer_scale_init": 0.5,
    },
    "no_gates_biases_one_key_head": {
        "num_key_value_heads": 1,
        "layer_scale_init": None,
        "bias": True,
        "nonlin_name": "GELU",
        "qk_norm": False,
        "n_backbone_layers": 3,
        "rope_base": 100,
        "norm_eps": 1e-2,
        "logit_scale": 0.5,
        "embedding_scale": 2.0,
    },
}


@pytest.fixture(scope="module")
def modules():
    """The script and the reference, which import nothing of each other."""
    pytest.importorskip("torch", reason="reading PyTorch checkpoints needs PyTorch")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        patch.syspath_prepend(str(ROOT / "tests" / "convert"))
        yield [importlib.import_module(name) for name in ("golden", "reference_attractor")]


@pytest.mark.parametrize("name", list(CASES))
def test_every_kind_of_model_agrees(name, modules, tmp_path, capsys):
    golden, reference = modules
    reference.write_case(tmp_path, f"attractor_{name}", reference.BASE | CASES[name])
    assert golden.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "7 comparisons" in printed
    assert "residual" not in printed
    assert float(printed.rsplit("largest error", 1)[1]) < 2e-5
    if name == "no_gates_biases_one_key_head":  # a case to spoil
        file = tmp_path / f"attractor_{name}.npz"
        arrays = dict(np.load(file))
        for wrong in ("context", "f_y", "Jv", "vJ", "logits", "nll"):
            spoiled = arrays | {wrong: arrays[wrong] * (1 + 1e-3)}
            np.savez(file, **spoiled)
            assert golden.main([str(tmp_path)]) == 1
            assert "is 1.0e-03, above" in capsys.readouterr().out

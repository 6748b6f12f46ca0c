"""Published reasoners: what fits and what does not, and the folder of one."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from reference_reasoner import BASE, Reference, random_state

from deqjax import cli
from deqjax.convert import ConversionError, convert_reasoner, load_converted
from deqjax.models import ReasonerStates

STATE = random_state(BASE)


def test_the_command_writes_a_reasoner_that_loads(tmp_path, capsys):
    torch.save({key: torch.from_numpy(value) for key, value in STATE.items()}, tmp_path / "m.pth")
    (tmp_path / "m.json").write_text(json.dumps(BASE))
    words = [tmp_path / "m.pth", "--config", tmp_path / "m.json", "--out", tmp_path / "out"]
    assert cli.main(["convert", *map(str, words)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{sum(each.size for each in STATE.values()):,}" in printed
    assert "cycles of a pass" in printed
    loaded, ours = load_converted(tmp_path / "out"), convert_reasoner(STATE, BASE)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (2, 6))
    high, low = rng.normal(size=(2, 2, 6, 8))
    answers = [
        model(jnp.asarray(tokens), ReasonerStates(jnp.float32(high), jnp.float32(low)))
        for model in (loaded, ours)
    ]
    np.testing.assert_array_equal(answers[0].logits, answers[1].logits)
    arrays = Reference(STATE, BASE).case(*map(torch.from_numpy, (tokens, tokens, high, low)))
    np.testing.assert_allclose(answers[0].logits, arrays["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"H_layers": 2}, "H_layers is 2"),
        ({"lambda_": 1.5}, "lambda_ is 1.5"),
        ({"pos_encodings": "learned"}, "pos_encodings is 'learned'"),
        ({"pos_encodings": "rope2d", "board_width": None}, "'rope2d' needs the board"),
        ({"num_heads": 3}, "the configuration makes no model: width 8 must be a multiple"),
        ({"L_layers": 1}, "unknown keys: L_level.layers.1"),
        ({"mlp_t": True}, "missing keys: L_level.layers.0.mlp_t.gate_up_proj.weight"),
        ({"vocab_size": 7}, r"has shape \(5, 8\) instead of \(7, 8\)"),
    ],
)
def test_what_does_not_fit_is_told(options, sentence):
    with pytest.raises(ConversionError, match=sentence):
        convert_reasoner(STATE, BASE | options)

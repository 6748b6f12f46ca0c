"""The configuration of a published equilibrium reasoner, checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, StrictBool

from deqjax.convert._errors import ConversionError
from deqjax.convert._options import check_options
from deqjax.models import ReasonerShape, SolverSettings, reasoner_settings

_POSITIONS: dict[str, Literal["rotary", "rotary_2d", "none"]] = {
    "rope": "rotary",
    "rope2d": "rotary_2d",
    "none": "none",
}


class ReasonerConfig(pydantic.BaseModel):
    """Options of the published equilibrium reasoner or tiny recursive model.

    Attributes:
        seq_len: tokens of a puzzle.
        vocab_size: number of tokens.
        hidden_size: features per token.
        num_heads: attention heads.
        L_layers: layers of the level that both states share.
        H_layers: is 0: the high state has no layers of its own.
        H_cycles: cycles of a pass, of which the last has a gradient.
        L_cycles: updates of the low state in a cycle.
        expansion: features inside a feed-forward are 2/3 of so many times its width.
        pos_encodings: "rope", "rope2d" of a board, or "none".
        board_height: rows of the board; only "rope2d" asks for them.
        board_width: its columns.
        mlp_t: a feed-forward over the positions in place of attention.
        lambda_: length of a step; 1 is undamped.
        noise_scale: deviation of the noise in training.
        H_init_std: deviation of the random starts of the high state.
        L_init_std: of the low state.
        rms_norm_eps: of the norms.
        rope_theta: base of the angles.
        halt_max_steps: most passes on a puzzle in training, which the model does not keep.
        halt_exploration_prob: likewise.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    seq_len: PositiveInt = pydantic.Field(strict=True)
    vocab_size: PositiveInt = pydantic.Field(strict=True)
    hidden_size: PositiveInt = pydantic.Field(strict=True)
    num_heads: PositiveInt = pydantic.Field(strict=True)
    L_layers: PositiveInt = pydantic.Field(strict=True)
    H_layers: Literal[0] = 0
    H_cycles: PositiveInt = pydantic.Field(3, strict=True)
    L_cycles: PositiveInt = pydantic.Field(6, strict=True)
    expansion: PositiveFloat = 4.0
    pos_encodings: Literal["rope", "rope2d", "none"] = "rope"
    board_height: PositiveInt | None = pydantic.Field(None, strict=True)
    board_width: PositiveInt | None = pydantic.Field(None, strict=True)
    mlp_t: StrictBool = False
    lambda_: PositiveFloat = pydantic.Field(1.0, le=1)
    noise_scale: NonNegativeFloat = 0.0
    H_init_std: NonNegativeFloat = 1.0
    L_init_std: NonNegativeFloat = 1.0
    rms_norm_eps: PositiveFloat = 1e-5
    rope_theta: PositiveFloat = 10_000.0
    halt_max_steps: PositiveInt = pydantic.Field(16, strict=True)
    halt_exploration_prob: NonNegativeFloat = pydantic.Field(0.1, le=1)

    def shape(self) -> ReasonerShape:
        """The same as the shape of our model."""
        height, width = self.board_height, self.board_width
        return ReasonerShape(
            tokens=self.vocab_size,
            length=self.seq_len,
            board=None if height is None or width is None else (height, width),
            width=self.hidden_size,
            heads=self.num_heads,
            layers=self.L_layers,
            expansion=self.expansion,
            inner_steps=self.L_cycles,
            damping=self.lambda_,
            noise=self.noise_scale,
            positions=_POSITIONS[self.pos_encodings],
            rotary_base=self.rope_theta,
            mixing="mlp" if self.mlp_t else "attention",
            norm_eps=self.rms_norm_eps,
            start_deviations=(self.H_init_std, self.L_init_std),
        )

    def settings(self) -> SolverSettings:
        """How a pass iterates."""
        return dataclasses.replace(reasoner_settings(), max_steps=self.H_cycles)


def check_reasoner_config(values: Mapping[str, Any]) -> ReasonerConfig:
    """The options in a JSON file's values.

    Raises:
        ConversionError: an option is missing, unknown, or does not go with another one.
    """
    config = check_options(ReasonerConfig, values)
    board = (config.board_height, config.board_width)
    if config.pos_encodings == "rope2d" and None in board:
        raise ConversionError(
            "pos_encodings 'rope2d' needs the board; give board_height and board_width."
        )
    return config

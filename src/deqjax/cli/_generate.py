"""``deqjax generate``."""

import dataclasses
import sys
from pathlib import Path
from statistics import fmean
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Generate:
    """Continue a prompt with a run's newest checkpoint.

    Attributes:
        folder: folder of the run.
        prompt: text to continue.
        count: tokens to generate: bytes, characters, words or pieces of them.
        temperature: of the sampling; 0 takes the most likely token.
        top_k: draw from so many of the most likely tokens; 0 is all.
        top_p: draw from the fewest most likely tokens whose probabilities sum to this; 1 is all.
        seed: of the sampling.
        compare_warm_start: solve the same text once more, each token from zero instead of from its
            last equilibrium, and print the steps of both.
        compare_cache: solve the same text once more, all that a token sees anew for each, and print
            the tokens a second of both.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    prompt: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPT")]
    count: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    compare_warm_start: bool = False
    compare_cache: bool = False

    def run(self) -> int:
        """Print the prompt and what follows, piece by piece."""
        from deqjax.tasks.language import generate_text

        text = generate_text(
            self.folder,
            self.prompt,
            count=self.count,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
        )
        print(text.prompt, end="", flush=True)
        for piece in text:
            print(piece, end="", flush=True)
        print()
        if text.tokens_a_second is not None:
            line = f"tokens a second: {text.tokens_a_second:.1f}"
            if self.compare_cache:
                line += f", {text.tokens_a_second_without_cache():.1f} without the cache"
            print(line, file=sys.stderr)
        if text.steps:
            line = f"solver steps a token: {fmean(text.steps):.2f} with the warm start"
            if self.compare_warm_start:
                line += f", {fmean(text.steps_without_warm_start()):.2f} without"
            print(line, file=sys.stderr)
        elif self.compare_warm_start:
            print("an explicit model solves nothing: no warm start to compare.", file=sys.stderr)
        return 0

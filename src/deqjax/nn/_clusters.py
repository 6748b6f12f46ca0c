"""How a vocabulary sorted by frequency is cut into clusters of falling width."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Cluster i holds the tokens [bounds[i], bounds[i + 1]), embedded in widths[i] numbers.

    Both ends of a language model, the embedding and the softmax, are cut in the same way
    (Baevski & Auli, ICLR 2019, section 3).

    Raises:
        ValueError: a size below 1, cutoffs that do not increase strictly between 0 and the
            vocabulary, or a divisor that leaves a cluster no width.
    """

    vocabulary: int
    width: int
    embedding_width: int
    cutoffs: tuple[int, ...]
    divisor: int

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "embedding_width", "divisor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)} but must be at least 1.")
        if sorted({0, *self.cutoffs, self.vocabulary}) != list(self.bounds):
            raise ValueError(
                f"cutoffs {self.cutoffs} must increase strictly and lie between 0 and the "
                f"vocabulary {self.vocabulary}, both excluded."
            )
        if 0 in self.widths:
            raise ValueError(
                f"divisor {self.divisor} leaves cluster {self.widths.index(0)} no width "
                f"(embedding_width {self.embedding_width} divided {self.widths.index(0)} times); "
                "take a smaller divisor or fewer cutoffs."
            )

    @property
    def bounds(self) -> tuple[int, ...]:
        """0, the cutoffs, and the vocabulary."""
        return (0, *self.cutoffs, self.vocabulary)

    @property
    def count(self) -> int:
        """The number of clusters, the shortlist included."""
        return len(self.cutoffs) + 1

    @property
    def widths(self) -> tuple[int, ...]:
        """embedding_width // divisor^i for each cluster i."""
        return tuple(self.embedding_width // self.divisor**i for i in range(self.count))

    @property
    def table_shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and width of each table: one per cluster, or one for all where widths are equal."""
        if self.divisor == 1:
            return ((self.vocabulary, self.embedding_width),)
        rows = (end - start for start, end in zip(self.bounds, self.bounds[1:], strict=False))
        return tuple(zip(rows, self.widths, strict=True))

    @property
    def projects(self) -> bool:
        """Whether a projection stands between the tables and the model."""
        return self.divisor > 1 or self.embedding_width != self.width

    def check_projection_ties(self, ties: tuple[bool, ...]) -> None:
        """Refuse a tuple that is neither empty nor one entry per cluster."""
        if ties and len(ties) != self.count:
            raise ValueError(
                f"tie_projections has {len(ties)} entries but there are {self.count} clusters "
                f"({len(self.cutoffs)} cutoffs and one more); give one entry per cluster or none."
            )


def check_tokens(name: str, tokens: jax.Array) -> None:
    """Refuse anything but integers, with the argument's name."""
    if not jax.numpy.issubdtype(tokens.dtype, jax.numpy.integer):
        raise TypeError(f"{name} must be integers, not {tokens.dtype}.")

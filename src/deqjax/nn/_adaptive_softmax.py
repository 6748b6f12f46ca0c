"""Log-softmax over a large vocabulary in two levels, at the cost of the clusters touched."""

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.nn._adaptive_embedding import AdaptiveEmbedding, new_projection, new_table
from deqjax.nn._chunked_likelihood import (
    OUTSIDE,
    chunked_nll,
    dense_nll,
    rows_of_a_chunk,
    token_logits,
)
from deqjax.nn._clusters import Clusters, check_tokens


class AdaptiveSoftmax(nnx.Module):
    """log p(token | h): a head over the frequent tokens and the clusters, a tail inside each.

    With logits l_i = (h P_i) W_i^T + b_i of cluster i, the head is the log-softmax of l_0 followed
    by one logit h P_0 C^T + c per tail cluster. A token of the shortlist (cluster 0) has its head
    entry; a token of tail cluster i >= 1 has head column -i (the last column is cluster 1) plus
    its log-softmax in l_i (Grave et al., ICML 2017, section 4; with widths that fall by the
    divisor, Baevski & Auli, ICLR 2019, section 3.2). Without cutoffs it is a plain log-softmax.

    Matrices are multiplied in the dtype of the states; logits and their log-sum-exp are float32
    (float64 for float64 states).

    Args:
        vocabulary: number of tokens, frequent ones first.
        width: of the states.
        embedding_width: of the first table; None is ``width``.
        cutoffs: first token of each tail cluster.
        divisor: cluster i's table is embedding_width // divisor^i wide.
        embedding: its tables become W_i, the same parameters; None makes new ones.
        tie_projections: for each cluster whether P_i is the embedding's as well (with ``divisor=1``
            its only one). Empty ties none; where there is no projection there is nothing to tie.
        chunk: tokens whose logits are alive at a time in `negative_log_likelihood`, for a
            cluster of 4096 columns or more; a smaller one takes more tokens at a time.
        rngs: stream ``params``.

    Attributes:
        clusters: the checked sizes.
        tables: W_i, (tokens of the cluster, d_i); with ``divisor=1`` one table for all clusters.
        biases: b_i, one vector per table.
        projections: P_i, (width, d_i), one per cluster; None where nothing is projected.
        cluster_weight: C, (tail clusters, d_0), or None without cutoffs.
        cluster_bias: c, (tail clusters,), or None without cutoffs.

    Raises:
        ValueError: sizes, cutoffs or divisor as `deqjax.nn._clusters.Clusters` says; a chunk
            below 1; ties of another length than the clusters or without an embedding; an
            embedding of other sizes.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        embedding_width: int | None = None,
        cutoffs: tuple[int, ...] = (),
        divisor: int = 1,
        embedding: AdaptiveEmbedding | None = None,
        tie_projections: tuple[bool, ...] = (),
        chunk: int = 256,
        rngs: nnx.Rngs,
    ) -> None:
        embedding_width = width if embedding_width is None else embedding_width
        clusters = Clusters(vocabulary, width, embedding_width, tuple(cutoffs), divisor)
        _check(clusters, embedding, tie_projections, chunk)
        self.clusters = clusters
        self.chunk = chunk
        new = (new_table(shape, 1.0, rngs) for shape in clusters.table_shapes)
        self.tables = nnx.List(new if embedding is None else embedding.tables)
        self.biases = nnx.List(
            [nnx.Param(jnp.zeros(rows, jnp.float32)) for rows, _ in clusters.table_shapes]
        )
        self.projections = nnx.List(_projections(clusters, embedding, tie_projections, rngs))
        tails = clusters.count - 1
        self.cluster_weight = new_table((tails, clusters.widths[0]), 1.0, rngs) if tails else None
        self.cluster_bias = nnx.Param(jnp.zeros(tails, jnp.float32)) if tails else None

    def negative_log_likelihood(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """-log p(target | state), without the logits of all tokens.

        Tokens are taken ``chunk`` at a time, those of a tail cluster sorted to stand together, and
        chunks without a token of the cluster are skipped, and the backward pass computes a chunk's
        logits again. So beyond the gradients themselves memory is a few times ``chunk`` times the
        largest cluster. A head whose logits fit into one chunk is a plain log-softmax. Under
        ``jax.vmap`` nothing is skipped. Derivatives of any order and in both modes are right.

        Args:
            states: h, (..., width), floating point.
            targets: integers (...); one outside of the vocabulary gives NaN.

        Returns:
            nats, shape (...), float32 (float64 for float64 states).

        Raises:
            TypeError: the targets are not integers.
            ValueError: the shapes do not fit.
        """
        self._check_states(states)
        check_tokens("targets", targets)
        if targets.shape != states.shape[:-1]:
            raise ValueError(
                f"targets of shape {targets.shape} do not fit states of shape {states.shape}; "
                "give one target per state."
            )
        nll = self._flat_nll(states.reshape(-1, states.shape[-1]), targets.reshape(-1))
        return nll.reshape(targets.shape)

    def log_probabilities(self, states: jax.Array) -> jax.Array:
        """Log p of every token: states (..., width) -> (..., vocabulary).

        In float32 (float64 for float64 states). Holds all logits, so it is for generation and
        inspection, not for training with a large vocabulary.

        Raises:
            ValueError: the states are not ``width`` wide.
        """
        self._check_states(states)
        parts = [jax.nn.log_softmax(token_logits(self._project(states, 0), *self._head()))]
        shortlist = self.clusters.bounds[1]
        for cluster in range(1, self.clusters.count):
            logits = token_logits(self._project(states, cluster), *self._rows(cluster))
            parts.append(parts[0][..., -cluster, None] + jax.nn.log_softmax(logits))
        parts[0] = parts[0][..., :shortlist]
        return jnp.concatenate(parts, axis=-1)

    def _flat_nll(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """Negative log-likelihood (tokens,) of states (tokens, width)."""
        cluster = jnp.zeros(targets.shape, jnp.int32)
        for cutoff in self.clusters.cutoffs:
            cluster += (targets >= cutoff).astype(jnp.int32)
        nll = self._head_nll(states, targets, cluster)
        if self.clusters.count == 1:
            return nll
        order = jnp.argsort(cluster)
        states, targets, cluster = states[order], targets[order], cluster[order]
        tails = jnp.zeros_like(nll)
        for i in range(1, self.clusters.count):
            weight, bias = self._rows(i)
            column = jnp.where(cluster == i, targets - self.clusters.bounds[i], OUTSIDE)
            x, chunk = self._project(states, i), self._chunk(len(bias))
            tails += chunked_nll(x, weight, bias, column.astype(jnp.int32), chunk=chunk)
        return nll.at[order].add(tails, unique_indices=True)

    def _head_nll(self, states: jax.Array, targets: jax.Array, cluster: jax.Array) -> jax.Array:
        """The part of a shortlist token, or of the tail cluster that holds the token."""
        weight, bias = self._head()
        column = jnp.where(cluster == 0, targets, len(bias) - cluster)
        known = (targets >= 0) & (targets < self.clusters.vocabulary)
        column = jnp.where(known, column, len(bias)).astype(jnp.int32)
        x, chunk = self._project(states, 0), self._chunk(len(bias))
        if len(targets) <= chunk:
            return dense_nll(x, weight, bias, column)
        return chunked_nll(x, weight, bias, column, chunk=chunk)

    def _head(self) -> tuple[jax.Array, jax.Array]:
        """Weight and bias of the shortlist, then of the tail clusters."""
        weight, bias = self._rows(0)
        if self.cluster_weight is None or self.cluster_bias is None:
            return weight, bias
        return (
            jnp.concatenate([weight, self.cluster_weight[...]]),
            jnp.concatenate([bias, self.cluster_bias[...]]),
        )

    def _rows(self, cluster: int) -> tuple[jax.Array, jax.Array]:
        """W_i and b_i."""
        if len(self.tables) == self.clusters.count:
            return self.tables[cluster][...], self.biases[cluster][...]
        rows = slice(*self.clusters.bounds[cluster : cluster + 2])
        return self.tables[0][rows], self.biases[0][rows]

    def _project(self, states: jax.Array, cluster: int) -> jax.Array:
        projection = self.projections[cluster]
        if projection is None:
            return states
        return states @ projection[...].astype(states.dtype)

    def _chunk(self, columns: int) -> int:
        return rows_of_a_chunk(self.chunk, columns)

    def _check_states(self, states: jax.Array) -> None:
        if states.ndim == 0 or states.shape[-1] != self.clusters.width:
            raise ValueError(
                f"states of shape {states.shape} must end in the width {self.clusters.width}."
            )


def _projections(
    clusters: Clusters,
    embedding: AdaptiveEmbedding | None,
    ties: tuple[bool, ...],
    rngs: nnx.Rngs,
) -> list[nnx.Param | None]:
    if not clusters.projects:
        return [None] * clusters.count
    if embedding is None or not ties:
        ties = (False,) * clusters.count
    known = embedding.projections if embedding is not None else ()
    return [
        known[i if clusters.divisor > 1 else 0]
        if tie
        else new_projection(clusters.width, clusters.widths[i], rngs)
        for i, tie in enumerate(ties)
    ]


def _check(
    clusters: Clusters,
    embedding: AdaptiveEmbedding | None,
    ties: tuple[bool, ...],
    chunk: int,
) -> None:
    clusters.check_projection_ties(ties)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk} but must be at least 1.")
    if any(ties) and embedding is None:
        raise ValueError("tie_projections ties to an embedding; give embedding= or no ties.")
    if embedding is not None and embedding.clusters != clusters:
        raise ValueError(
            f"the embedding has {embedding.clusters} but the softmax {clusters}; "
            "tied weights need the same sizes."
        )

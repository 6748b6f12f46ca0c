"""A converted model in a few words."""

from deqjax.convert._folder import Converted
from deqjax.convert._parameters import parameters_of
from deqjax.models import MDEQ, AttractorLM, DEQTransformerLM, Reasoner


def summary(model: Converted) -> dict[str, str]:
    """What a reader compares with the published recipe: name to value, in words.

    Shared parameters are counted once.
    """
    counts = [parameter[...].size for parameter in parameters_of(model).values()]
    return {"parameters": f"{sum(counts):,}"} | _rest(model)


def _rest(model: Converted) -> dict[str, str]:
    match model:
        case AttractorLM():
            return _attractor(model)
        case MDEQ():
            return _mdeq(model)
        case DEQTransformerLM():
            return _transformer(model)
        case Reasoner():
            return _reasoner(model)


def _attractor(model: AttractorLM) -> dict[str, str]:
    shape = model.shape
    gated = f"{shape.feed_forward}, gated" if shape.gated else shape.feed_forward
    return {
        "tokens": f"{shape.tokens:,}",
        "rows of the tables": f"{shape.rows:,}",
        "tied": "embedding and softmax" if shape.tie_embeddings else "nothing",
        "width": str(shape.width),
        "heads": str(shape.heads),
        "heads of keys": str(shape.groups),
        "blocks of the prelude and of the head": f"{shape.prelude_layers} and {shape.head_layers}",
        "features of the feed-forward": f"{shape.hidden} ({gated})",
        "bound of the gates": "no gates" if shape.gate_start is None else str(shape.gate_bound),
        "normalized queries and keys": "yes" if shape.query_key_norm else "no",
        "segment": str(shape.length),
    }


def _transformer(model: DEQTransformerLM) -> dict[str, str]:
    shape, clusters = model.shape, model.embedding.clusters
    tied = ["embedding and softmax"] if shape.tie_weights else []
    tied += [f"projection {i}" for i, tie in enumerate(shape.tie_projections) if tie]
    return {
        "tokens": f"{shape.tokens:,}",
        "tokens of the clusters": ", ".join(
            f"{end - start:,}"
            for start, end in zip(clusters.bounds, clusters.bounds[1:], strict=False)
        ),
        "widths of the clusters": ", ".join(map(str, clusters.widths)),
        "tied": ", ".join(tied) or "nothing",
        "width": str(shape.width),
        "heads": str(shape.heads),
        "features of the feed-forward": str(shape.hidden),
        "layer norm": "before attention" if shape.pre_layer_norm else "after attention",
        "weight norm": "yes" if shape.weight_norm else "no",
        "segment and memory": f"{shape.length} and {shape.memory_length}",
        "horizon": str(shape.horizon),
    }


def _mdeq(model: MDEQ) -> dict[str, str]:
    shape = model.shape

    def each(counts: tuple[int, ...]) -> str:
        return ", ".join(map(str, counts)) or "none"

    norms = {
        "in blocks": shape.block_affine,
        "between branches": shape.fuse_affine,
        "after the fusion": shape.post_affine,
    }
    values = {
        "task": shape.task,
        "classes": str(shape.logits),
        "channels of the branches": each(shape.channels),
        "expansion inside a block": str(shape.expansion),
        "groups": str(shape.groups),
        "5x5 kernels of the branches": each(shape.big_kernels),
        "weight norm": "yes" if shape.weight_norm else "no",
        "norms with parameters": ", ".join(name for name, used in norms.items() if used) or "none",
        "stem halves": f"{shape.downsample_times} times",
    }
    if shape.task == "classification":
        values["channels of the bottlenecks"] = each(shape.head_channels)
        values["features before the classifier"] = str(shape.final_channels)
    return values


def _reasoner(model: Reasoner) -> dict[str, str]:
    shape = model.shape
    hidden = [f"{shape.hidden(shape.width)} of the features"]
    if shape.mixing == "mlp":
        hidden.append(f"{shape.hidden(shape.side)} of the positions")
    return {
        "tokens": f"{shape.vocabulary:,}",
        "length of a puzzle": str(shape.length or "any"),
        "width": str(shape.width),
        "heads": "none" if shape.mixing == "mlp" else str(shape.heads),
        "layers": str(shape.layers),
        "inside the feed-forwards": ", ".join(hidden),
        "positions": shape.positions,
        "cycles of a pass": str(model.thinking.max_steps),
        "updates in a cycle": f"{shape.inner_steps} of the low state, 1 of the high one",
        "damping": f"{shape.damping:g}",
        "noise": f"{shape.noise:g}",
    }

"""A converted model in a few words."""

from deqjax.convert._parameters import parameters_of
from deqjax.models import DEQTransformerLM


def summary(model: DEQTransformerLM) -> dict[str, str]:
    """What a reader compares with the published recipe: name to value, in words.

    Shared parameters are counted once.
    """
    shape, clusters = model.shape, model.embedding.clusters
    counts = [parameter[...].size for parameter in parameters_of(model).values()]
    tied = ["embedding and softmax"] if shape.tie_weights else []
    tied += [f"projection {i}" for i, tie in enumerate(shape.tie_projections) if tie]
    return {
        "parameters": f"{sum(counts):,}",
        "tokens": f"{shape.vocabulary:,}",
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

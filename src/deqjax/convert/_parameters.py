"""The parameters of a model by name."""

from flax import nnx


def parameters_of(model: nnx.Module) -> dict[str, nnx.Param]:
    """Dotted name to parameter; one that is shared appears once."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Param)
    }

"""How the parameters of language models are divided over devices that share the work on a row."""

from collections.abc import Mapping

from jax.sharding import PartitionSpec

from deqjax.tasks.language._config import LanguageNetwork

_COLUMNS, _ROWS = PartitionSpec(None, "model"), PartitionSpec("model")
_FEED_FORWARD = {"*.up.kernel": _COLUMNS, "*.up_bias": _ROWS, "*.down.kernel": _ROWS}


def rules(network: LanguageNetwork) -> Mapping[str, PartitionSpec]:
    """Rules for `deqjax.training.Task.sharding`.

    Of a Transformer the hidden features of the feed-forward are divided, so that an evaluation of
    the cell adds up once over the devices (Shoeybi et al. 2019, arXiv 1909.08053), and the
    vocabulary. All else is divided over "data" alone: the parameters of attention are whole on each
    of these devices, which share out its heads.
    """
    vocabulary = {"embedding.tables.*": _ROWS, "softmax.biases.*": _ROWS}
    if network.kind == "deq_trellisnet":
        return vocabulary | {"*": PartitionSpec()}
    gains = {"*.up.gain": _ROWS} if network.shape.weight_norm else {}
    return vocabulary | _FEED_FORWARD | gains | {"*": PartitionSpec()}

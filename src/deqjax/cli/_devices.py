"""How many devices a command sees."""

from deqjax.cli._usage import UsageError

_MOST = 1_024  # each of them has threads and memory of its own


def use_devices(count: int | None) -> None:
    """Split the CPU into virtual devices, which must happen before JAX starts.

    Args:
        count: of devices; None takes those that the machine has.

    Raises:
        UsageError: a number that no machine can be split into.
    """
    if count is None:
        return
    if not 1 <= count <= _MOST:
        raise UsageError(f"--devices must be from 1 to {_MOST}, got {count}.")
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)

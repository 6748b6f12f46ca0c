"""How many devices a command sees."""

from deqjax.cli._usage import UsageError


def use_devices(count: int | None) -> None:
    """Split the CPU into virtual devices, which must happen before JAX starts.

    Args:
        count: of devices; None takes those that the machine has.

    Raises:
        UsageError: a number below 1.
    """
    if count is None:
        return
    if count < 1:
        raise UsageError(f"--devices must be at least 1, got {count}.")
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)

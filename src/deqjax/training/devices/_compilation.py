"""Programs that XLA compiled once need not be compiled again by the next process."""

from pathlib import Path

import jax

from deqjax.training._workdir import Workdir


def keep_compiled_programs(workdir: Path | str) -> None:
    """Let this process keep its compiled programs beside a run's folder, and find them there.

    A restarted run compiles nothing anew. Does nothing where the user has chosen a folder for that
    (JAX_COMPILATION_CACHE_DIR). Nothing is compiled differently.

    Args:
        workdir: the run's folder.

    Raises:
        WorkdirError: no folder can have this name.
    """
    chosen: str | None = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    if chosen is not None:
        return
    folder = Workdir.at(workdir).compilation_cache.absolute()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

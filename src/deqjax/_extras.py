"""What is installed only with an extra of the package, and the sentence that names the extra.

The core needs JAX, Flax and NumPy. What else a part of the package needs is imported inside of

    with needs("train", "deqjax.training"):
        import optax

which leaves every other error as it is: a package that is there and broken says so itself.
"""

import contextlib
from collections.abc import Iterator

MODULES = {
    "train": (
        "PIL",
        "array_record",
        "cloudpickle",
        "grain",
        "importlib_resources",
        "optax",
        "orbax",
        "pydantic",
        "rich",
        "sklearn",
        "tensorboardX",
        "tensorflow_datasets",
        "tyro",
    ),
    "plot": ("matplotlib",),
    "jaxopt": ("jaxopt",),
    "torch": ("safetensors", "torch"),
    "hub": ("huggingface_hub", "safetensors"),
    "pieces": ("tokenizers",),
}
"""The modules that an extra brings, as Python imports them; not those of an extra inside of it."""


class MissingExtraError(ModuleNotFoundError):
    """A package is not installed; the sentence names the extra that brings it."""


@contextlib.contextmanager
def needs(extra: str, what: str, error: type[Exception] = MissingExtraError) -> Iterator[None]:
    """Imports in this context are of packages that an extra brings.

    Args:
        extra: its name in pyproject.toml, and in `MODULES`.
        what: what needs the packages, the subject of the sentence.
        error: the kind of error to raise.

    Raises:
        MissingExtraError: or what `error` is, if one of the extra's packages is not installed.
    """
    try:
        yield
    except MissingExtraError:  # what is imported here has said it of itself
        raise
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        if package not in MODULES[extra]:
            raise
        sentence = f"{what} needs {package}, which is not installed: pip install 'deqjax[{extra}]'."
        raise error(sentence) from missing

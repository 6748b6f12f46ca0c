"""What is raised when a published checkpoint cannot become a model of ours."""


class ConversionError(ValueError):
    """A checkpoint, its configuration or a converted folder cannot be used; says why."""


def first_line(error: BaseException) -> str:
    """What another package's error says, short enough for a sentence of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

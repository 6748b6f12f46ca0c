"""What is raised when a published checkpoint cannot become a model of ours."""


class ConversionError(ValueError):
    """A checkpoint, its configuration or a converted folder cannot be used; says why."""

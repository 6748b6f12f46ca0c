"""The error of this package."""


class DataError(ValueError):
    """Data are missing, damaged or too few, or a number that describes batches cannot work."""

"""Sizes that an image model has from its data."""


class ImageSizes:
    """Of the shapes of the image models: what their data tell, refused where it is missing.

    Attributes:
        classes: to tell apart; None where they are not known yet.
        input_channels: of the images; None likewise.
    """

    classes: int | None
    input_channels: int | None

    @property
    def logits(self) -> int:
        """The number of classes.

        Raises:
            ValueError: it is not known.
        """
        if self.classes is None:
            raise ValueError(
                "classes is not known; give the number of classes to tell apart, 10 for CIFAR-10."
            )
        return self.classes

    @property
    def image_channels(self) -> int:
        """The number of channels of the images.

        Raises:
            ValueError: it is not known.
        """
        if self.input_channels is None:
            raise ValueError(
                "input_channels is not known; give the number of channels of the images, 3 for "
                "colors, 1 for gray."
            )
        return self.input_channels

    def check_known(self) -> None:
        """Raise a ValueError for a size that a model of this shape still needs."""
        _ = self.image_channels, self.logits

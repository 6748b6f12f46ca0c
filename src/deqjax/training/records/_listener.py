"""Who a run speaks to, and that it goes on when nobody hears it any more."""

from collections.abc import Callable


class Listener:
    """Receives sentences for the user; once it has failed it is not spoken to again.

    Args:
        say: receives them. An OSError of it, such as a closed pipe or a full disk, ends nothing.

    Attributes:
        failure: why it cannot be spoken to, or None.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.failure: OSError | None = None

    def __call__(self, sentence: str) -> None:
        """Say it, if anybody hears."""
        if self.failure is None:
            try:
                self._speak(sentence)
            except OSError as error:
                self.fail(error)

    def _speak(self, sentence: str) -> None:
        try:
            self._say(sentence)
        except UnicodeEncodeError:  # a name with what this terminal's language has not
            self._say(sentence.encode("ascii", "backslashreplace").decode())

    def fail(self, error: OSError) -> None:
        """Note that it cannot be spoken to, as who writes to the same place has found out."""
        self.failure = self.failure or error


def as_listener(say: Callable[[str], None]) -> Listener:
    """What receives sentences, as a listener, which it may be already."""
    return say if isinstance(say, Listener) else Listener(say)

"""How far long work is: who wants to know, and what parts of it say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Listener = Callable[[str, int, int], None]
"""Called with what is being done (a gate's id, or "loading"), how many samples are done, and of how many."""

Tell = Callable[[int, int], None]
"""Called with how much of one piece of work is done, and of how much."""


def silent(*_told: object) -> None:
    """Nobody wants to know."""


class ListenerError(BaseException):
    """Carries what a listener `raised` past all that makes results of errors."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(str(raised))
        self.raised = raised


def ending(listener: Listener) -> Listener:
    """A listener whose errors are no candidate's: they end the work. Ctrl-C stays what it is.

    Raises:
        ListenerError: it raises anything.
    """

    def tell(what: str, done: int, of: int) -> None:
        try:
            listener(what, done, of)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ListenerError(error) from error

    return tell


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a part of some work tells: how much of the whole is done."""

    tell: Tell
    of: int  # the whole
    before: int = 0  # how much of it was done before this part

    def done(self, count: int) -> None:
        """Tell that so much of this part is done."""
        self.tell(self.before + count, self.of)

    def after(self, count: int) -> Progress:
        """That of the part which begins once so much of this one is done."""
        return replace(self, before=self.before + count)


SILENT = Progress(tell=silent, of=0)
"""Of work whose progress nobody wants to know."""

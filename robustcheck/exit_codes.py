"""The exit codes of the `robustcheck` command, and the errors that commands end in."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from robustcheck.errors import EvaluationError, PolicyError, ReportError
from robustcheck.words import behind_bars, visible

if TYPE_CHECKING:
    from robustcheck.results import AuditReport

EXIT_CODES = {"pass": 0, "fail": 1, "error": 3, "inconclusive": 4}  # of a report's verdict
USAGE_ERROR = 2
INTERRUPTED = 130


def exit_code(report: AuditReport) -> int:
    """What a run that came to this report ends with."""
    if report.interrupted:
        return INTERRUPTED
    return EXIT_CODES["pass" if report.green else report.verdict]


class Commands(click.Group):
    """The group of all commands: an error that one of them ends in gets its exit code here.

    An interrupt has 130, wherever it comes, and an unforeseen error has the code of a gate that could not be evaluated:
    click's own 1, and Python's, is that of a failed gate.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (PolicyError, ReportError) as error:
            tell(visible(str(error)))  # as `file:line: …`, which editors and CI turn into a link
            sys.exit(USAGE_ERROR)
        except EvaluationError as error:
            tell("\n".join(behind_bars(str(error))))
            sys.exit(EXIT_CODES["error"])
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - of robustcheck itself, or of what it is installed with
            if not (isinstance(error, OSError) and _of_standard_output(error)):
                tell("\n".join(behind_bars(traceback.format_exc())))
            elif not isinstance(error, BrokenPipeError):  # then whoever read the output has gone
                tell(f"standard output cannot be written: {error.strerror or error}")
            sys.exit(EXIT_CODES["error"])
        finally:
            for stream in (sys.stdout, sys.stderr):
                _give_up_if_unwritable(stream)


@contextmanager
def last_words(code: int) -> Iterator[None]:
    """Lets a command print once its exit code is known; it then ends with that code, whether or not somebody reads."""
    with suppress(BrokenPipeError):
        yield
    sys.exit(code)


def tell(text: str) -> None:
    """Print a message on standard error, if that is possible: the exit code reports the same anyway."""
    with suppress(OSError):
        click.echo(text, err=True)


def _of_standard_output(error: OSError) -> bool:
    """Whether printing raised the error; printing in `tell` raises none."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _give_up_if_unwritable(stream: TextIO | None) -> None:
    """Flush a stream, or discard what it holds if that fails: Python would try once more, and end with 120."""
    if stream is not None and not stream.closed:
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

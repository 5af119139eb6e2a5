"""The exit codes of the `robustcheck` command, and the errors that commands end in."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import IO, TYPE_CHECKING, Any

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

    An interrupt has 130, wherever it comes, and what nobody foresaw has the code of a gate that could not be evaluated:
    click's own 1, and Python's, is that of a failed gate.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (PolicyError, ReportError) as error:
            raise _UsageError(visible(str(error))) from None
        except EvaluationError as error:
            click.echo("\n".join(behind_bars(str(error))), err=True)
            sys.exit(EXIT_CODES["error"])
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - of robustcheck itself, or of what it is installed with
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # whoever read the output has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed to nobody
                sys.exit(EXIT_CODES["error"])
            click.echo("\n".join(behind_bars(traceback.format_exc())), err=True)
            sys.exit(EXIT_CODES["error"])


class _UsageError(click.ClickException):
    """The mistake is in a file, not in the command: said as `file:line: …`, which editors and CI make a link of."""

    exit_code = USAGE_ERROR

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message and nothing around it."""
        click.echo(self.format_message(), file=file, err=file is None)

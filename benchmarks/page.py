"""What a benchmark prints: where its numbers come from, each table once it is there, and whether others disturbed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.gating import UnansweredError
from benchmarks.machine import describe, disturbance, watched
from robustcheck.errors import RobustcheckError

INTERRUPTED = 130  # as shells say it


def provenance(
    module: str, arguments: Sequence[str] | None, *, threads: int | None = None, packages: Sequence[str] = ()
) -> str:
    """What was typed, when, on what, and with which versions, as a sentence.

    Args:
        module: of `benchmarks` that runs.
        arguments: its own; None: those of the command line.
        threads: of torch, where it computes.
        packages: those that take part, beside the ones that always do.
    """
    typed = shlex.join(["python", "-m", f"benchmarks.{module}", *(sys.argv[1:] if arguments is None else arguments)])
    versions = [f"{name} {version(name)}" for name in sorted({"numpy", "pytest-robustcheck", "torch", *packages})]
    said = [f"`{typed}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", describe()]
    said += [f"threads: {threads}"] if threads else []
    return f"Measured by {'; '.join([*said, ', '.join(versions)])}."


def publish(heading: Sequence[str], tables: Iterable[str], *, out: Path | None = None) -> int:
    """Print tables as they are done, below a heading, and keep them in a file if one is named.

    Returns:
        0; 1 if a table cannot be made, which is said in a sentence; 130 after Ctrl-C.
    """
    page: list[str] = []

    def put(text: str) -> None:
        print(f"{text}\n", flush=True)
        page.append(text)
        if out:
            out.write_text("\n\n".join(page) + "\n", encoding="utf-8")

    for text in heading:
        put(text)
    try:
        with watched() as elsewhere:
            for table in tables:
                put(table)
    except KeyboardInterrupt:
        print("interrupted; what stands above was finished", file=sys.stderr)
        return INTERRUPTED
    except (UnansweredError, RobustcheckError) as error:
        print(error, file=sys.stderr)
        return 1
    put(disturbance(elsewhere.share, "meanwhile"))
    return 0

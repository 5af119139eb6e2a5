"""What the commands of the benchmark share on their command lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.images import ARCHIVE
from benchmarks.machine import cores


def add_common(parser: argparse.ArgumentParser, *, rounds: int | None = None) -> None:
    """Add what a benchmark that publishes tables takes: --threads, --archive, --out; --rounds if there are several."""
    if rounds:
        parser.add_argument(
            "--rounds", type=positive, default=rounds, metavar="N", help=f"how often each runs (default: {rounds})"
        )
    add_machine(parser)
    parser.add_argument("--out", type=_to_write, metavar="FILE", help="where to write the tables as well")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add what depends on the machine: --threads and --archive."""
    parser.add_argument(
        "--threads",
        type=positive,
        default=cores(),
        metavar="N",
        help=f"threads of each (default: all cores, here {cores()})",
    )
    parser.add_argument(
        "--archive",
        type=_archive,
        default=str(ARCHIVE),  # as text, which argparse gives to `type` as it does what was typed
        metavar="FILE",
        help="PneumoniaMNIST's .npz (default: ../shared/data/pneumoniamnist.npz, beside the project)",
    )


def add_attacked(parser: argparse.ArgumentParser) -> None:
    """Add what adversaries who ask attack: --candidates, --epsilon, --images."""
    shipped = [name for name, known in CANDIDATES.items() if known.shipped]
    parser.add_argument(
        "--candidates",
        nargs="+",
        choices=list(CANDIDATES),
        default=shipped,
        metavar="NAME",
        help=f"which to attack, of {', '.join(CANDIDATES)} (default: {' '.join(shipped)})",
    )
    parser.add_argument("--epsilon", nargs="+", default=["8/255"], metavar="ε", help="budgets in L∞ (default: 8/255)")
    parser.add_argument("--images", type=positive, metavar="N", help="X-rays of the test split (default: all)")


def positive(text: str) -> int:
    """A whole number from 1, or argparse's own complaint.

    Raises:
        argparse.ArgumentTypeError: it is less.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def candidate(name: str) -> Candidate:
    """The candidate of a name.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    if name not in CANDIDATES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CANDIDATES)}")
    return CANDIDATES[name]


def _archive(text: str) -> Path:
    """Absolute, since policies that name it are written elsewhere."""
    path = Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no {path}; say where PneumoniaMNIST's archive lies")
    return path


def _to_write(text: str) -> Path:
    """Refused before hours have gone by."""
    path = Path(text).resolve()
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path} cannot be written; name a file in a folder that is there")
    return path

"""What the commands of the benchmark share on their command lines."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.images import ARCHIVE


def add_common(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Add --rounds, --threads and --archive."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--rounds", type=positive, default=rounds, metavar="N", help=f"how often each runs (default: {rounds})"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=cores,
        metavar="N",
        help=f"threads of each (default: all cores, here {cores})",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        default=ARCHIVE,
        metavar="FILE",
        help="PneumoniaMNIST's .npz (default: ../shared/data/pneumoniamnist.npz, beside the project)",
    )


def positive(text: str) -> int:
    """A whole number from 1, or argparse's own complaint.

    Raises:
        argparse.ArgumentTypeError: it is less.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number

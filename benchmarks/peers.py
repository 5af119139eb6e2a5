"""robustcheck beside the attack libraries: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.arguments import add_common, candidate, positive
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.images import write_part
from benchmarks.job import Job
from benchmarks.libraries import BARE, LIBRARIES
from benchmarks.ours import WAYS
from benchmarks.page import publish
from benchmarks.processes import compare, ensure_apart
from benchmarks.records import heading
from benchmarks.results import Record, section

LEVELS = [1, 2, 4, 8]
EXPLANATION = """\
PGD in the L∞ ball at 1, 2, 4 and 8 /255 from one random start, in steps of 2.5 · ε / steps. Everyone gets the same
candidate, images, batch and threads, in turn, each in a process of its own. What is measured, and where the comparison
favours whom, is in benchmarks/README.md.

candidates, and how many X-rays are attacked unless NAME:N or --images says so:
{candidates}

A candidate whose weights the project does not hold is trained first, which takes minutes, and kept in the user's cache.

examples:
  python -m benchmarks.peers --candidates cnn-hardened --images 64 --rounds 1    a look
  python -m benchmarks.peers --candidates resnet18 --peers --images 64           robustcheck and the bare loop only
  python -m benchmarks.peers --out peers.md                                      everything: many hours
  python -m benchmarks.peers --candidates cnn-standard cnn-hardened resnet18:96 resnet50:8 densenet121:8
                                                                                 everything, on fewer images: a few
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if a contender failed."""
    given = _parse(arguments)
    effort = f"PGD-{given.steps}, batches of {given.batch}"
    records: list[Record] = []
    head = heading("robustcheck beside its peers", "peers", arguments, given, effort=effort)
    code = publish(head, _sections(given, records), out=given.out)
    return code or int(any(record.failure for record in records))


def _sections(given: argparse.Namespace, records: list[Record]) -> Iterator[str]:
    """A candidate's tables as they are done, whose records are added."""
    for one, count in given.candidates:
        ensure_apart(one, given.archive, given.threads)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "images.npz"
            images = write_part(given.archive, count or given.images or one.images, part)
            compared = _compared(one, part, images, given)
        records += compared
        yield section(f"{one.title}: {images} X-rays", compared, LEVELS)


def _compared(one: Candidate, part: Path, images: int, given: argparse.Namespace) -> list[Record]:
    """Every contender's record on one candidate."""

    def job(contender: str, number: int) -> Job:
        return Job(
            contender=contender,
            candidate=one.name,
            archive=str(part),
            images=images,
            levels=LEVELS,
            steps=given.steps,
            batch=given.batch,
            threads=given.threads,
            seed=number,
        )

    contenders = _contenders(given)
    compare(contenders, given.rounds, job, one.name, lambda measured: f"{measured.seconds:.1f} s")
    return list(contenders.values())


def _contenders(given: argparse.Namespace) -> dict[str, Record]:
    """Those that run, by name: the libraries that are there, the floor, and ours."""
    there = [name for name in given.peers if LIBRARIES[name].installed]
    return {
        **{name: Record(title=LIBRARIES[name].title, kind="peer") for name in there},
        "bare": Record(title=BARE.title, kind="floor"),
        **{name: Record(title=WAYS[name].title, kind="ours") for name in given.ways},
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {one.name:<13} {one.images or 'all':<4} {one.title}" for one in CANDIDATES.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure robustcheck beside the libraries that run the same attack.",
        epilog=EXPLANATION.format(candidates=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        type=_candidate,
        default=[(one, None) for one in CANDIDATES.values()],
        metavar="NAME[:N]",
        help="which to attack, and on how many X-rays (default: all, as below)",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=LIBRARIES,
        default=[*LIBRARIES],
        help=f"which libraries to run beside it: {', '.join(LIBRARIES)} (default: those that are installed)",
        metavar="NAME",
    )
    parser.add_argument(
        "--ways",
        nargs="*",
        choices=WAYS,
        default=[*WAYS],
        help=f"which ways of running robustcheck: {', '.join(WAYS)} (default: all)",
        metavar="NAME",
    )
    parser.add_argument("--images", type=positive, metavar="N", help="X-rays to attack where NAME:N does not say")
    parser.add_argument("--steps", type=positive, default=40, metavar="N", help="PGD's steps (default: 40)")
    parser.add_argument("--batch", type=positive, default=128, metavar="N", help="images at once (default: 128)")
    add_common(parser, rounds=3)
    return parser.parse_args(arguments)


def _candidate(text: str) -> tuple[Candidate, int | None]:
    """`resnet50`, or `resnet50:8`: a candidate, and how many images it is attacked on if that is said."""
    name, _, count = text.partition(":")
    return candidate(name), positive(count) if count else None


if __name__ == "__main__":
    sys.exit(main())

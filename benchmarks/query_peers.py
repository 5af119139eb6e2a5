"""Attacks that may only ask, beside the libraries': `python -m benchmarks.query_peers --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.arguments import add_common, candidate, positive
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.images import write_part
from benchmarks.libraries import LIBRARIES
from benchmarks.page import publish
from benchmarks.processes import compare, ensure_apart
from benchmarks.query_job import QueryJob
from benchmarks.query_pairs import OURS, PAIRS, PLAIN, Pair
from benchmarks.query_results import QueryRecord, section
from benchmarks.records import heading

L2 = {"cnn-hardened": "1.5"}  # of the full range, where 0.5 is too little
ASKING = [name for name in LIBRARIES if any(name in pair.peers for pair in PAIRS.values())]
EXPLANATION = """\
Everyone gets the same candidate, the X-rays that it reads rightly, about the same number of queries a sample, and the
same threads, in turn, each in a process of its own. All images that an attack puts through the network are counted,
those too with which a library checks its own work, and its steps are chosen to come to about --queries a sample. What
it returns is read as it is, and taken into the ball and stored in 8 bits, as robustcheck's own proposals are. Attacks
that ask for labels start at the nearest X-ray of the other label. More is in benchmarks/README.md.

pairs:
{pairs}

examples:
  python -m benchmarks.query_peers --images 8 --queries 100 --rounds 1 --threads 1       a look: a minute or two
  python -m benchmarks.query_peers --pairs square nes --peers torchattacks foolbox
  python -m benchmarks.query_peers --candidates resnet18 --images 32 --pairs square      a larger candidate
  python -m benchmarks.query_peers --out query_peers.md                                  everything: an hour and a half
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if a contender failed."""
    given = _parse(arguments)
    effort = f"{given.queries:,} queries a sample, peers' batches of {given.batch}"
    records: list[QueryRecord] = []
    head = heading("Attacks that ask, beside the peers'", "query_peers", arguments, given, effort=effort)
    code = publish(head, _sections(given, records), out=given.out)
    return code or int(any(record.failure for record in records))


def _sections(given: argparse.Namespace, records: list[QueryRecord]) -> Iterator[str]:
    """A pair's tables as they are done, whose records are added; each candidate's begin with its title."""
    for one in given.candidates:
        ensure_apart(one, given.archive, given.threads)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "images.npz"
            yield f"## {one.title}: {write_part(given.archive, given.images, part)} X-rays"
            for name in given.pairs:
                compared = _compared(name, one, part, given)
                records += compared
                yield section(PAIRS[name], _epsilon(PAIRS[name], one, given), given.queries, compared)


def _compared(name: str, one: Candidate, part: Path, given: argparse.Namespace) -> list[QueryRecord]:
    """Every contender's record in a pair."""
    pair = PAIRS[name]
    ours = [OURS] if pair.plain is None else [OURS, PLAIN]
    contenders = {name: QueryRecord(title=name) for name in ours} | {
        key: QueryRecord(title=peer.title, how=peer.how)
        for key, peer in pair.peers.items()
        if peer.made_by in given.peers and LIBRARIES[peer.made_by].installed
    }

    def job(contender: str, number: int) -> QueryJob:
        return QueryJob(
            pair=name,
            contender=contender,
            candidate=one.name,
            archive=str(part),
            epsilon=_epsilon(pair, one, given),
            queries=given.queries,
            batch=given.batch,
            threads=given.threads,
            seed=number,
        )

    told = f"{one.name}, {name}"
    compare(contenders, given.rounds, job, told, lambda measured: f"{measured.seconds:.2f} s, {measured.left:.3f} left")
    return list(contenders.values())


def _epsilon(pair: Pair, one: Candidate, given: argparse.Namespace) -> str:
    """The budget as a policy says it; in L2, unless told, one that leaves neither all nor nothing."""
    if pair.norm == "linf":
        return str(given.linf)
    return str(given.l2 or L2.get(one.name, "0.5"))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(
        f"  {name:<17} {pair.title}: {', '.join(peer.title for peer in pair.peers.values())}"
        for name, pair in PAIRS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.query_peers",
        description="Measure robustcheck's attacks that may only ask beside those of the libraries.",
        epilog=EXPLANATION.format(pairs=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        type=candidate,
        default=[CANDIDATES["cnn-standard"], CANDIDATES["cnn-hardened"]],
        metavar="NAME",
        help=f"which to attack, of {', '.join(CANDIDATES)} (default: the first two)",
    )
    parser.add_argument(
        "--pairs", nargs="+", choices=PAIRS, default=[*PAIRS], metavar="NAME", help="of those below (default: all)"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=ASKING,
        default=ASKING,
        metavar="NAME",
        help=f"which libraries to run beside it: {', '.join(ASKING)} (default: those that are installed)",
    )
    parser.add_argument("--images", type=positive, default=100, metavar="N", help="X-rays (default: 100)")
    parser.add_argument("--queries", type=positive, default=1000, metavar="N", help="a sample (default: 1000)")
    parser.add_argument("--linf", default="8/255", metavar="ε", help="budget in L∞ (default: 8/255)")
    parser.add_argument("--l2", metavar="ε", help="budget in L2 (default: 0.5, cnn-hardened: 1.5)")
    parser.add_argument("--batch", type=positive, default=128, metavar="N", help="peers' images at once (default: 128)")
    add_common(parser, rounds=3)
    given = parser.parse_args(arguments)
    for name in given.pairs:
        if given.queries < PAIRS[name].least:
            parser.error(f"--queries: {name} takes at least {PAIRS[name].least}")
    return given


if __name__ == "__main__":
    sys.exit(main())

"""What the engine adds to one step: `python -m benchmarks.step --help`.

One PGD step of robustcheck is the gradient, the sign and the clamp of a bare loop; and a look at the scores, a row of
bookkeeping a sample, and at the end a verdict. The ratio of their seconds is what those cost. It is measured on samples
that hold, where the engine can save nothing by stopping, as the time of the search alone: loading, clean predictions
and the health of the attack are a gate's and not a step's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.arguments import add_common, positive
from benchmarks.candidates import CANDIDATES
from benchmarks.gating import UnansweredError, answered, write_policy
from benchmarks.images import Split, write_some
from benchmarks.libraries import Effort, bare
from benchmarks.ours import WAYS, pgd_gates
from benchmarks.page import provenance, publish
from benchmarks.results import table
from robustcheck import load_policy
from robustcheck.evaluation.adversary import ball_of_gate, goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.search.searching import Search
from robustcheck.models.process_settings import freed_memory_kept

CANDIDATE = CANDIDATES["cnn-hardened"]
BATCHES = (1, 8, 32, 128, 256)
LEVEL, SAFE_LEVEL = 1, 4  # ε of the measured steps in 255ths; and the one at which their samples are known to hold
SAMPLES = 16384  # samples through the network a measurement: enough that starting and judging are lost among the steps
MOST_STEPS = 2000
EXPLANATION = """\
The hardened CNN that the project ships, `precision: full`, at 1/255, on X-rays that hold at 4/255. Both get the same
images, steps, step size and threads, and take turns. An engine that cost nothing would have the ratio 1.
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds a step, of both, measured one after the other."""

    engine: float
    bare: float

    @property
    def ratio(self) -> float:
        """How many times as long the engine's step takes."""
        return self.engine / self.bare


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    given = _parse(arguments)
    torch.set_num_threads(given.threads)
    return publish([provenance("step", arguments, threads=given.threads)], _tables(given), out=given.out)


def _tables(given: argparse.Namespace) -> Iterator[str]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        holding = _holding(given.archive, folder)
        if max(given.batches) > len(holding):
            raise UnansweredError(f"--batches: {max(given.batches)} is more than the {len(holding)} X-rays that hold")
        for batch in given.batches:
            steps = min(MOST_STEPS, SAMPLES // batch)
            images = write_some(given.archive, holding[:batch], folder / "images.npz")
            _, *timed = (_step(images, folder, steps, batch, seed) for seed in range(given.rounds + 1))  # one warms up
            rows.append(_row(batch, steps, timed))
            print(f"batch {batch}: {rows[-1][-1]}", file=sys.stderr)
    yield table(["batch", "steps", "engine, ms a step", "bare loop, ms a step", "ratio"], rows)


def _holding(archive: Path, folder: Path) -> list[int]:
    """The numbers of the X-rays that PGD does not break at the safe level."""
    _, gate = answered(_policy(folder, archive, level=SAFE_LEVEL, steps=20, batch=128, seed=0))
    return [number for number, outcome in enumerate(gate.samples) if outcome.status == "held"]


def _step(images: Path, folder: Path, steps: int, batch: int, seed: int) -> Step:
    """Both, one after the other; every other time the other one first."""
    if seed % 2:
        engine = _engine(images, folder, steps, batch, seed)
        return Step(engine=engine, bare=_bare(images, steps, batch, seed))
    loop = _bare(images, steps, batch, seed)
    return Step(engine=_engine(images, folder, steps, batch, seed), bare=loop)


def _engine(images: Path, folder: Path, steps: int, batch: int, seed: int) -> float:
    policy = load_policy(_policy(folder, images, level=LEVEL, steps=steps, batch=batch, seed=seed))
    setting, gate = Evaluation(policy).setting, policy.gates[-1]
    ball, goal = ball_of_gate(gate, setting), goal_of(gate, setting)
    search = Search(gate=gate, setting=setting, ball=ball, goal=goal, family=gate.id)
    meter = setting.candidate.meter
    before = meter.gradient
    with freed_memory_kept():  # as gates do
        began = time.perf_counter()
        search.run(range(len(setting.samples)), search.begin())
        took = time.perf_counter() - began
    return took / ((meter.gradient - before) / len(setting.samples))


def _bare(images: Path, steps: int, batch: int, seed: int) -> float:
    data = Split.read(images, "test")
    attack = bare(CANDIDATE.load(), Effort(steps=steps, batch=batch))
    torch.manual_seed(seed)
    with freed_memory_kept():  # it is a fast path, and not the engine's cost
        began = time.perf_counter()
        attack(data.images, data.labels, LEVEL / 255)
        return (time.perf_counter() - began) / steps


def _policy(folder: Path, archive: Path, *, level: int, steps: int, batch: int, seed: int) -> Path:
    model = {"batch_size": batch, **WAYS["full"].model}
    return write_policy(folder / "policy.yaml", CANDIDATE, pgd_gates([level], steps), archive, model=model, seed=seed)


def _row(batch: int, steps: int, pairs: Sequence[Step]) -> list[str]:
    ratios = [pair.ratio for pair in pairs]
    return [
        str(batch),
        str(steps),
        f"{median(pair.engine for pair in pairs) * 1000:.2f}",
        f"{median(pair.bare for pair in pairs) * 1000:.2f}",
        f"{median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})",
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description="Measure what robustcheck's engine adds to one PGD step of a bare loop.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed = " ".join(map(str, BATCHES))
    parser.add_argument(
        "--batches", nargs="+", type=positive, default=BATCHES, metavar="N", help=f"batch sizes (default: {listed})"
    )
    add_common(parser, rounds=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Runs one search of an attack on images in memory, as a gate does, and keeps what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from building import candidate

from robustcheck.attacks import GradientAttack, QueryAttack
from robustcheck.attacks.draws import key
from robustcheck.evaluation.looks.look import Once
from robustcheck.evaluation.progress import Progress
from robustcheck.evaluation.search.gradient_loop import GradientLoop
from robustcheck.evaluation.search.loop import Hit, Task
from robustcheck.evaluation.search.query_loop import QueryLoop
from robustcheck.evaluation.search.rows import GradientRows
from robustcheck.models import Candidate, LabelOracle, ScoreOracle, TopKOracle, WhiteBox
from robustcheck.threats import Ball, Goal


@dataclass
class Searched:
    """What a search found: each sample's nearest counterexample."""

    engine: GradientLoop | QueryLoop
    hits: dict[int, Hit] = field(default_factory=dict)
    every: list[Hit] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    held: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def found(self) -> dict[int, tuple]:
        """Everything about the counterexamples that must not depend on how samples were batched."""
        return {
            sample: (hit.stored.tobytes(), hit.decision, hit.restart, hit.step) for sample, hit in self.hits.items()
        }

    def distances(self, count: int) -> np.ndarray:
        """Each sample's smallest distance in grey levels; infinity where there is no counterexample."""
        return np.array([self.hits[sample].distance if sample in self.hits else np.inf for sample in range(count)])


def search(
    attack: GradientAttack | QueryAttack,
    network: torch.nn.Module,
    images: np.ndarray,
    labels: torch.Tensor,
    ball: Ball,
    *,
    count: int,
    batch: int = 64,
    goal: Goal | None = None,
    queries: int | None = None,
    order: Sequence[int] | None = None,
    aim: Callable[[int, int], int] | None = None,
    known_starts: Callable | None = None,
    doubtful_margin: float | None = None,
    clean_logits: torch.Tensor | None = None,
    stored: bool = False,
    k: int = 1,
    elsewhere: Callable[[int, int], torch.Tensor] | None = None,
) -> Searched:
    """Search stored images (N, C, H, W) with these true readings (N,) for counterexamples."""
    goal = goal or Goal(labels=count)
    asked = candidate(network, labels=[f"label {index}" for index in range(count)], batch=batch)

    def found(hit: Hit) -> None:
        searched.every.append(hit)
        if hit.sample not in searched.hits or hit.distance < searched.hits[hit.sample].distance:
            searched.hits[hit.sample] = hit

    def on_hold(rows: GradientRows, points: torch.Tensor) -> None:
        searched.held.update(zip(rows.sample.tolist(), points, strict=True))

    def load(numbers: list[int]) -> torch.Tensor:
        return torch.from_numpy(images[numbers]).float() / ball.maximum

    task = Task(
        candidate=asked,
        viewer=Once(candidate=asked, goal=goal),
        goal=goal,
        labels=labels,
        load=load,
        key=lambda sample, restart: key(0, "gate", str(sample), restart),
        on_hit=found,
        progress=Progress(tell=lambda done, _of: searched.done.append(done), of=len(images)),
    )
    if aim is not None:
        task = replace(task, aim=aim)
    if isinstance(attack, GradientAttack):
        engine = GradientLoop(
            attack=attack,
            task=task,
            access=WhiteBox(asked),
            ball=ball.widest(images.shape[1:]) if attack.minimum_norm else ball,
            on_hold=on_hold,
            clean_logits=None if clean_logits is None else lambda rows: clean_logits[rows.sample],
            doubtful_margin=doubtful_margin,
            **({"known_starts": known_starts} if known_starts else {}),
        )
    else:
        others = [np.flatnonzero(labels.numpy() != label) for label in labels.tolist()]
        engine = QueryLoop(
            attack=attack,
            task=task,
            oracle=_oracle(attack, asked, len(images), queries, ball.maximum if stored else None, k),
            pixels=images[0].size,
            stored=stored,
            ball=ball,
            starting_images=elsewhere or (lambda sample, attempt: load([int(others[sample][attempt])])[0]),
        )
    searched = Searched(engine=engine)
    engine.run([(sample, 0) for sample in (range(len(images)) if order is None else order)])
    return searched


def _oracle(attack: QueryAttack, asked: Candidate, samples: int, limit: int | None, maximum: int | None, k: int):
    if limit is None:
        return WhiteBox(asked)
    if attack.name == "partial_information":
        return TopKOracle(asked, samples=samples, limit=limit, maximum=maximum, k=k)
    kind = ScoreOracle if attack.name in ("nes", "square") else LabelOracle
    return kind(asked, samples=samples, limit=limit, maximum=maximum)

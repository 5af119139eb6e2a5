"""Counterexamples of gates that share them, each read once: its file, where it lies, and how the candidate reads it.

All that follows from a file and its sample alone, and what each gate states of it is compared with that. No more images
are held at a time than the candidate is asked about together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.digests import pixels_sha256
from robustcheck.evaluation.adversary import ball_of_gate, goal_of
from robustcheck.evaluation.looks.choice import viewer_of
from robustcheck.evaluation.looks.look import Once, Viewer
from robustcheck.evaluation.replay.figures import REL_TOLERANCE
from robustcheck.evaluation.replay.patches import Patched, Row
from robustcheck.evaluation.replay.restating import NEAR
from robustcheck.evaluation.setting import Setting
from robustcheck.models.batches import batches
from robustcheck.models.grey_levels import shares_of
from robustcheck.policy import Gate, PatchSpec, RP2Spec
from robustcheck.results import Outcome, Patch
from robustcheck.threats import Ball
from robustcheck.words import shown

ReadStored = Callable[[str, int], np.ndarray | None]
"""Reads the stored integers (C, H, W) of a counterexample: its file, as the report names it, and how many they are at
most. None if it is not there, or no stored image."""

DRAWS = "the candidate draws, and reads an image differently each time"

_Named = tuple[int, str | None]  # a sample's number in the data, and the file that is named as its counterexample


@dataclass(kw_only=True, eq=False)
class Stated:
    """What a report states of a gate's counterexamples, and what came of that."""

    gate: Gate
    patch: Patch | None  # the one that it judged
    rows: list[Row]  # its broken samples
    amiss: list[str] = field(default_factory=list)
    read: int = 0  # counterexamples that were shown to the candidate again
    not_read: str = ""  # why they were not


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """A counterexample that a gate states, whose file is what it states."""

    by: Stated
    outcome: Outcome
    row: int  # of its image in the batch

    def amiss(self, what: str) -> None:
        """Note what is amiss with it."""
        self.by.amiss.append(f"{self.outcome.sample}: {what}")


class Reader:
    """Reads the counterexamples of gates that share them: but for budgets, their adversaries want and know the same.

    Args:
        gates: that share them; one that shares nothing is alone.
        setting: of the policy.
        stored: reads files.
    """

    def __init__(self, gates: Sequence[Stated], setting: Setting, stored: ReadStored) -> None:
        self._gates, self._setting, self._stored = gates, setting, stored
        self._gate = gate = gates[0].gate  # as any other of them, but for its budget
        goal, maximum = goal_of(gate, setting), setting.samples.maximum
        self._viewer: Viewer = viewer_of(gate, setting.candidate, goal, maximum=maximum)
        # Patches lie anywhere; the counterexamples of all other attacks have to lie near their samples.
        near = [one for one in gates if one.gate.attack is not None and one.gate.size is None]
        balls = [(one, ball_of_gate(one.gate, setting)) for one in near]
        self._balls: list[tuple[Stated, Ball]] = sorted(balls, key=lambda one: one[1].levels)
        self._not_read = ""  # why one more look at a counterexample would show nothing; "": it shows all
        if gate.conditions is not None and not isinstance(gate.attack, RP2Spec):
            self._not_read = "they hold on a share of looks, each under conditions of its own"
        elif setting.candidate.randomness is not None:
            self._not_read = DRAWS
        self._of_image = dict[_Named, list[tuple[Stated, Outcome]]]()
        for one in gates:
            for outcome, place in one.rows:
                self._of_image.setdefault((place, outcome.counterexample), []).append((one, outcome))

    def __len__(self) -> int:
        """How many images there are to read."""
        return len(self._of_image)

    def read(self) -> Iterator[int]:
        """Read them, and note what is amiss with them at their gates; yields how many images were read since.

        Raises:
            DataError: the policy names a patch whose file is not there, or none that fits.
        """
        patched = Patched(self._gate, self._setting) if isinstance(self._gate.attack, PatchSpec) else None
        for one in self._gates:
            one.not_read = self._not_read if one.rows else ""
            one.amiss += [] if patched is None else patched.faults_of_given(one.patch)
        # Sample by sample: where one has several, its clean image is decoded once for those that are read together.
        every = sorted(self._of_image, key=lambda named: named[0])
        limit = max(1, self._setting.candidate.chunks.limit // self._viewer.at_once)
        for alike in batches(every, lambda named: self._setting.samples.shape_of(named[0]), limit):
            self._read_batch(alike, patched)
            yield len(alike)

    def _read_batch(self, alike: Sequence[_Named], patched: Patched | None) -> None:
        """Read images of one shape."""
        claims, places, images = list[_Claim](), list[int](), list[np.ndarray]()
        clean = dict[int, np.ndarray]()
        for named in alike:
            (place, name), row = named, len(images)
            shape = self._setting.samples.shape_of(place)
            image = None if name is None else self._stored(name, math.prod(shape))
            stated = [_Claim(by=one, outcome=outcome, row=row) for one, outcome in self._of_image[named]]
            right = self._with_their_file(stated, image, shape)
            if image is not None and right:
                if place not in clean:
                    clean[place] = self._setting.samples.image(place)
                self._compare_clean(right, clean[place])
                claims += right
                places.append(place)
                images.append(image)
        if claims:
            levels, reference = (
                torch.from_numpy(np.stack(some).astype(np.int32))
                for some in (images, [clean[place] for place in places])
            )
            self._compare_distances(claims, levels, reference)
            if patched is not None:
                for claim in claims:
                    one = levels[claim.row : claim.row + 1]
                    claim.by.amiss += patched.faults_of_place(claim.outcome, places[claim.row], one)
            if not self._not_read:
                self._compare_readings(claims, places, levels)

    def _with_their_file(
        self, claims: Sequence[_Claim], image: np.ndarray | None, shape: tuple[int, ...]
    ) -> list[_Claim]:
        """Claims about one file whose image is what they state, and an image as samples are."""
        sha256 = None if image is None else pixels_sha256(image)
        of_samples = image is not None and image.shape == shape and int(image.max()) <= self._setting.samples.maximum
        for claim in claims:
            if image is None:
                claim.amiss("its counterexample has no file, or one that is no stored image of the sample's size")
            elif claim.outcome.sha256 != sha256:
                claim.amiss("the pixels in its file are not those whose digest the report states")
            elif not of_samples:
                claim.amiss("its counterexample has another shape, or other levels, than samples have")
        return [claim for claim in claims if of_samples and claim.outcome.sha256 == sha256]

    def _compare_clean(self, claims: Sequence[_Claim], clean: np.ndarray) -> None:
        """Compare the picture that a page shows beside a file, where there is one."""
        for name in claims[0].outcome.clean_files:
            shown_beside = self._stored(name, clean.size)
            if shown_beside is not None and not np.array_equal(shown_beside, clean):
                for claim in claims:
                    claim.amiss(f"the clean image in {shown(name)} is not the sample's")

    def _compare_distances(self, claims: Sequence[_Claim], levels: torch.Tensor, clean: torch.Tensor) -> None:
        """Compare where images lie. All balls are of one norm: who lies in one lies in every larger one."""
        if not self._balls:
            return
        distances, inside = self._balls[0][1].distance(levels, clean).tolist(), set[int]()
        for by, ball in self._balls:
            own = [claim for claim in claims if claim.by is by]
            inside |= _inside(ball, levels, clean, sorted({claim.row for claim in own} - inside))
            for claim in own:
                distance, stated = distances[claim.row], claim.outcome.distance_levels
                if claim.row not in inside or not distance:
                    claim.amiss(f"its counterexample lies outside of the budget, {distance:g} levels off")
                elif stated is None or not math.isclose(distance, stated, rel_tol=REL_TOLERANCE):
                    told = "nothing" if stated is None else f"{stated:g}"
                    claim.amiss(f"its counterexample lies {distance:g} levels off, and the report says {told}")

    def _compare_readings(self, claims: Sequence[_Claim], places: Sequence[int], levels: torch.Tensor) -> None:
        """Compare how the candidate reads them."""
        candidate, labels = self._setting.candidate, self._setting.labels[list(places)]
        images = shares_of(levels.to(candidate.device), self._setting.samples.maximum)
        none = torch.zeros(len(levels), dtype=torch.int64, device=candidate.device)  # a look that is not drawn
        seen = self._viewer(images, labels.to(candidate.device), Draws(keys=none), none)
        names, wanted = [candidate.head.name(one) for one in seen.decision.tolist()], seen.wanted.tolist()
        once = seen.score if isinstance(self._viewer, Once) else None  # means over looks are of looks that were drawn
        scores = [None] * len(levels) if once is None else once.tolist()
        for claim in claims:
            claim.by.read += 1
            name, score, stated = names[claim.row], scores[claim.row], claim.outcome.score
            if name != claim.outcome.attacked:
                claim.amiss(f"its counterexample is read as {name}, and the report says {claim.outcome.attacked}")
            elif not wanted[claim.row]:
                claim.amiss(f"its counterexample is read as {name}, which is not what the adversary wants")
            elif score is not None and not _alike(score, stated):
                told = "nothing" if stated is None else f"{stated:.4g}"
                claim.amiss(f"its counterexample has the score {score:.4g}, and the report says {told}")


def _inside(ball: Ball, levels: torch.Tensor, clean: torch.Tensor, rows: list[int]) -> set[int]:
    """Which of these rows of images (N, C, H, W) lie in a ball around the clean ones."""
    within = ball.contains(levels[rows], clean[rows]).tolist() if rows else []
    return {row for row, there in zip(rows, within, strict=True) if there}


def _alike(score: float, stated: float | None) -> bool:
    """Whether a score is as it is stated, which one that is no number is not."""
    return not math.isfinite(score) if stated is None else abs(score - stated) <= NEAR

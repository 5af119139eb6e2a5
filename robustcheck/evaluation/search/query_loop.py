"""The searches that may only ask: oracles count, and a row stops before a turn that would pass its limit.

A row may ask about several images in a turn; those of all rows go through the network together. Each image that is read
as the adversary wants and lies in the threat model is adjudicated, whatever the attack asked about it for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
import torch

from robustcheck.attacks import Answers, Asked, QueryAttack
from robustcheck.attacks.base import one_a_row
from robustcheck.evaluation.search.loop import Loop, Start
from robustcheck.evaluation.search.rows import QueryRows, Rows
from robustcheck.models import LabelOracle, ScoreOracle, TopKOracle, WhiteBox
from robustcheck.models.grey_levels import shares_of, to_stored
from robustcheck.models.head import NO_ANSWER
from robustcheck.threats.ball import per_row

_BATCHES = (4, 12)  # fewest and most batches of a turn's images: so few of them are left half empty
_BYTES = 64 * 1024**2  # of a turn's images, above which the batches are few

Oracle = ScoreOracle | TopKOracle | LabelOracle | WhiteBox


@dataclass(kw_only=True)
class QueryLoop(Loop[QueryAttack, QueryRows]):
    """A search that queries an oracle."""

    oracle: Oracle  # a white box, if nothing is counted
    pixels: int  # of an image, in all channels
    stored: bool  # it sees images as files would store them
    starting_images: Callable[[int, int], torch.Tensor] | None  # of a sample, (C, H, W) to try to start from

    @property
    def limit(self) -> int:
        """As many rows as fill a few batches with their images."""
        return rows_in_flight(self.attack, self.task.candidate.chunks.limit, self.pixels)

    def _entering(self, rows: Rows) -> QueryRows:
        return QueryRows.entering(rows, attempt=0 if self.attack.starts_misread else -1)

    def _queries(self, sample: int) -> int | None:
        return None if isinstance(self.oracle, WhiteBox) else int(self.oracle.counts[sample])

    def _advance(self, rows: QueryRows, waiting: deque[Start]) -> np.ndarray:
        """Look for starts, ask, adjudicate, learn; return the places (M,) of rows that leave."""
        gone = np.zeros(len(rows), dtype=bool)
        if len(seeking := np.flatnonzero(rows.attempt >= 0)):
            gone[seeking] = self._seek(rows, seeking, waiting)
        under_way = np.flatnonzero(rows.attempt < 0)
        if len(under_way):
            active = rows if len(under_way) == len(rows) else rows.take(under_way)
            gone[under_way] |= self._take_turn(active, waiting)
            if active is not rows:
                rows.put(under_way, active)
        return np.flatnonzero(gone)

    # --- where to start ---

    def _seek(self, rows: QueryRows, places: np.ndarray, waiting: deque[Start]) -> np.ndarray:
        """Try an image for each row at these places (M,); return which of them leave: broken, or out of queries."""
        assert self.starting_images is not None
        spent: np.ndarray = rows.step.cpu().numpy()[places] >= self.attack.queries
        self.task.trace.unstarted.update(rows.sample[places[spent]].tolist())
        self._again(rows.take(places[spent]), np.zeros(int(spent.sum()), dtype=bool), waiting)
        gone = spent.copy()
        places = places[~spent]
        if len(places):
            trying = rows.take(places)
            images = torch.stack([
                self.starting_images(sample, attempt)
                for sample, attempt in zip(trying.sample.tolist(), trying.attempt.tolist(), strict=True)
            ])  # fmt: skip
            readings, fooled = self._readings(trying, images)
            answers = Answers(loss=torch.where(fooled, 1.0, -1.0), fooled=fooled, shown=fooled)
            gone[~spent] = broken = self._judge(trying, one_a_row(images), answers)
            self._done += int(broken.sum())
            trying.step = trying.step + 1
            trying.attempt = np.where(fooled.cpu().numpy() & ~broken, -1, trying.attempt + 1)
            trying.aim = torch.where(fooled, readings, trying.aim)
            late = trying.step >= self.attack.queries  # nothing is searched from what the last query finds
            self.task.trace.unstarted.update(trying.sample[(fooled & late).cpu().numpy()].tolist())
            trying.followable = trying.followable | (fooled & ~late)
            trying.state = self.attack.start(images, trying.clean, self.ball, trying.draws)
            rows.put(places, trying)
        return gone

    def _readings(self, rows: QueryRows, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How the oracle reads images, one per row (N,), and whether that is what the adversary wants."""
        samples = torch.from_numpy(rows.sample)
        if isinstance(self.oracle, TopKOracle):
            readings = self.oracle.top(samples, images)[2]
        else:
            assert isinstance(self.oracle, LabelOracle)
            readings = self.oracle.labels(samples, images)
        return readings, self.task.goal.met(readings, rows.label)

    # --- the search ---

    def _take_turn(self, rows: QueryRows, waiting: deque[Start]) -> np.ndarray:
        """Take a turn of rows that are under way; return which of them (N,) leave."""
        queries = self.attack.ask(rows.state, rows.clean, self.ball, rows.draws)
        gone = (rows.step + queries.counts > self.attack.queries).cpu().numpy()
        if gone.any():
            self._finish(rows.take(np.flatnonzero(gone)), waiting)
            stay = np.flatnonzero(~gone)
            if len(stay):
                left = rows.take(stay)
                gone[stay] = self._take_turn(left, waiting)
                rows.put(stay, left)
            return gone
        answers = self._ask_oracle(rows, queries)
        broken = self._judge(rows, queries, answers)
        rows.step = rows.step + queries.counts
        self._done += int(broken.sum())
        rows.state = self.attack.learn(rows.state, queries, answers, rows.clean, self.ball, rows.draws)
        return broken

    def _ask_oracle(self, rows: QueryRows, queries: Asked) -> Answers:
        """Query the oracle about a turn's images."""
        images, asking = queries.images, queries.rows
        samples = torch.from_numpy(rows.sample)[asking.cpu()]
        label, aim, head = rows.label[asking], rows.aim[asking], self.task.candidate.head
        if isinstance(self.oracle, TopKOracle):
            values, labels, readings = self.oracle.top(samples, images)
            fooled = self.task.goal.met(readings, label)
            shown = fooled | (labels == aim[:, None]).any(dim=1)
            loss = _odds_of_aim(values, labels, aim)
            _aim_where_tries_lead(rows, queries, readings, fooled)
        elif isinstance(self.oracle, LabelOracle):
            fooled = shown = self.task.goal.met(self.oracle.labels(samples, images), label)
            loss = torch.where(fooled, 1.0, -1.0)
        else:
            logits = self.oracle.scores(samples, images)
            fooled = shown = self.task.goal.met(head.decide(logits), label)
            loss = self.attack.objective(head.at_operating_point(logits, self.attack.objective), label, aim)
        self._note_followable(rows, queries, loss)
        return Answers(loss=loss, fooled=fooled, shown=shown)

    def _note_followable(self, rows: QueryRows, queries: Asked, loss: torch.Tensor) -> None:
        """Note which rows have something to follow: their answers change. With a white box only gradients show that."""
        if isinstance(self.oracle, WhiteBox) or rows.followable.all():
            return
        if not self.attack.adaptive:
            rows.followable |= True
            return
        told = queries.table(loss)
        finite = queries.asked & told.isfinite()
        high = told.masked_fill(~finite, -inf).amax(dim=1)
        low = told.masked_fill(~finite, inf).amin(dim=1)
        last = rows.last_loss
        rows.followable |= (high > low) & finite.any(dim=1)
        rows.followable |= finite.any(dim=1) & last.isfinite() & ((high != last) | (low != last))
        rows.last_loss = torch.where(finite.any(dim=1), high, last)

    def _judge(self, rows: QueryRows, queries: Asked, answers: Answers) -> np.ndarray:
        """Adjudicate each row's most adverse image that is read as wanted and admissible; returns which rows broke.

        If an attack does not go by its answers, its first such image is adjudicated: what the turn asked about after
        that one was not needed.
        """
        broken = np.zeros(len(rows), dtype=bool)
        if not answers.fooled.any():
            return broken
        asking = queries.rows
        fooled = answers.fooled.nonzero().flatten()
        images, clean = queries.images[fooled], rows.clean[asking[fooled]]
        inside = self.ball.norm(images - clean) <= self.ball.radius + self.ball.slack(self.pixels)
        # The oracle answered about the rounded image. If that lies in the ball, its reading is known; an image that is
        # fitted to the ball may be read differently.
        if self.stored:
            seen = self._seen(images.clamp(0, 1), clean)[1]
            known = torch.zeros(len(rows), dtype=torch.bool, device=seen.device)
            known[asking[fooled[seen]]] = True
            inside = torch.where(known[asking[fooled]], seen, inside)
        hits = fooled[inside]
        if not len(hits):
            return broken
        worth = torch.full_like(answers.loss, -inf)
        worth[hits] = -hits.to(worth.dtype) if self._first_hit_counts else answers.loss[hits].nan_to_num(inf)
        table = queries.table(worth).masked_fill(~queries.asked, -inf)
        best = table.argmax(dim=1)
        admissible = torch.zeros(len(answers.loss), dtype=torch.bool, device=worth.device)
        admissible[hits] = True
        proposing = queries.table(admissible).any(dim=1).nonzero().flatten()
        number = queries.table(torch.arange(len(worth), device=worth.device))
        images = queries.images[number[proposing, best[proposing]]].clamp(0, 1)
        places = proposing.cpu().numpy()
        proposed = rows.take(places)
        stored = self._stored(images, proposed.clean)
        after = queries.counts - 1 - best if self._first_hit_counts else torch.zeros_like(best)
        verdict = self._propose(proposed, stored, after[proposing].cpu().numpy())
        if not verdict.all():
            refuted = torch.from_numpy(~verdict).to(images.device)
            self._note_refuted(stored[refuted], proposed.label[refuted], twin=isinstance(self.oracle, WhiteBox))
        broken[places] = verdict
        self._retire(proposed.sample[verdict])
        return broken

    @property
    def _first_hit_counts(self) -> bool:
        """Whether the first hit of a turn counts, not the most adverse one: no later question depended on it.

        With a white box nothing is counted, and the artefact may refute its first hit.
        """
        return not self.attack.adaptive and not isinstance(self.oracle, WhiteBox)

    def _finish(self, rows: QueryRows, waiting: deque[Start]) -> None:
        """Adjudicate the best points of rows whose restart may ask no more, and where their last steps led."""
        broken = self._submit(rows, self.attack.best(rows.state))
        if self.attack.keeps_best and len(rest := np.flatnonzero(~broken)):
            left = rows.take(rest)
            if self.task.candidate.randomness is not None:
                left.step = left.step + 1  # it is looked at as the best point was not
            broken[rest] = self._submit(left, left.state["images"])
        self._retire(rows.sample[broken])
        self._again(rows, ~broken, waiting)

    def _submit(self, rows: QueryRows, images: torch.Tensor) -> np.ndarray:
        return self._propose(rows, self._stored(self.ball.project(images, rows.clean), rows.clean))

    def _stored(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The storable images of the ball that are judged: those that were seen, if the oracle saw stored ones.

        Others may be asked about changes of less than half a level a pixel, which in L2 have to grow to be stored.
        """
        fitted = self.ball.rounded(images, clean)
        if not self.stored:
            return fitted
        seen, inside = self._seen(images, clean)
        return torch.where(per_row(inside), seen, fitted)

    def _seen(self, images: torch.Tensor, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, C, H, W) as an oracle of stored ones sees them, and which (N,) of those lie in the ball."""
        maximum = self.ball.maximum
        stored = to_stored(images, maximum)
        return shares_of(stored, maximum), self.ball.contains(stored, to_stored(clean, maximum))

    def _retire(self, samples: np.ndarray) -> None:
        if not isinstance(self.oracle, WhiteBox):
            self.oracle.retire(torch.from_numpy(samples))


def rows_in_flight(attack: QueryAttack, batch: int, pixels: int) -> int:
    """How many rows of images of so many pixels search together."""
    least, most = _BATCHES
    batches = min(most, max(least, _BYTES // (4 * batch * pixels)))
    return max(1, min(batch, ceil(batches * batch / attack.images_per_turn)))


def _aim_where_tries_lead(rows: QueryRows, queries: Asked, readings: torch.Tensor, fooled: torch.Tensor) -> None:
    """Let rows aim at the label as which a try (M,) is read: if any wrong label will do, the search goes on from there.

    A try is all that its row asks about in a turn. An estimate's images come in pairs, and no search moves to them.
    """
    led = (queries.counts == 1) & queries.table(fooled & (readings != NO_ANSWER))[:, 0]
    rows.aim = torch.where(led, queries.table(readings)[:, 0], rows.aim)


def _odds_of_aim(values: torch.Tensor, labels: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """Log-odds (N,) of a label, from the best k labels (N, k) and their log-probabilities (N, k).

    A label that is not among them is known to be no likelier than the last of them, nor than what they leave; with two
    labels that is all there is to know.
    """
    shown = labels == aim[:, None]
    left = _log_rest(values.logsumexp(dim=1))
    at_most = torch.minimum(values[:, -1], left)
    chance = torch.where(shown.any(dim=1), values.masked_fill(~shown, -inf).amax(dim=1), at_most)
    return chance - _log_rest(chance)


def _log_rest(chance: torch.Tensor) -> torch.Tensor:
    """log(1 - p) from log p, as far as float32 tells p from 1."""
    return (-torch.expm1(chance)).clamp_min(torch.finfo(torch.float32).eps / 2).log()

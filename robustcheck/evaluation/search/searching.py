"""A gate's searches: each of its attacks in turn, on the samples that are left."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf, prod

import numpy as np
import torch

from robustcheck.attacks import GradientAttack, QueryAttack, build
from robustcheck.attacks.base import closer
from robustcheck.attacks.draws import key
from robustcheck.attacks.objectives import margins_of_findings
from robustcheck.attacks.searches import Searches
from robustcheck.evaluation.adversary import ball_of_gate, goal_of, oracle_of
from robustcheck.evaluation.looks.choice import EOT, eot_of, viewer_of
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.evaluation.progress import SILENT, Progress
from robustcheck.evaluation.search.found import Found, Trace
from robustcheck.evaluation.search.gradient_loop import GradientLoop, KnownStarts, OnHold, anew, forget
from robustcheck.evaluation.search.loop import Start, Task
from robustcheck.evaluation.search.query_loop import Oracle, QueryLoop
from robustcheck.evaluation.search.recording import Recorder
from robustcheck.evaluation.search.rows import GradientRows
from robustcheck.evaluation.search.starting_images import StartingImages
from robustcheck.evaluation.search.warm_starts import Ends, begins_anywhere
from robustcheck.evaluation.setting import Setting
from robustcheck.models import Surrogates, WhiteBox
from robustcheck.models.access import Gradients
from robustcheck.models.batches import as_shares, batches
from robustcheck.policy import Gate, RP2Spec
from robustcheck.threats import Ball, Goal

_NEAR = 3.0  # times the observed difference between the margins of the two forms of a network


@dataclass(frozen=True, kw_only=True)
class Search:
    """The searches of one gate."""

    gate: Gate
    setting: Setting
    ball: Ball
    goal: Goal
    family: Hashable  # gates that share counterexamples; the gate's own if it shares none
    surrogates: Surrogates | None = None  # that are searched in the candidate's place
    instead: Searches = ()  # searches that replace the gate's own attacks
    to_the_nearest: bool = True  # a minimum-norm search goes on from one counterexample to nearer ones

    @classmethod
    def of(cls, gate: Gate, setting: Setting, *, shared: bool, surrogates: Surrogates | None = None) -> Search:
        """The searches of a gate; it uses and adds to the counterexamples of its family if they are `shared`."""
        return cls(
            gate=gate,
            setting=setting,
            ball=ball_of_gate(gate, setting),
            goal=goal_of(gate, setting),
            family=gate.family if shared and gate.family else gate.id,
            surrogates=surrogates,
        )

    def begin(self) -> Found:
        """An empty record, with a fresh oracle that counts this gate's queries."""
        return Found(oracle=oracle_of(self.gate, self.setting))

    def run(self, samples: Sequence[int], found: Found) -> None:
        """Search samples that were not searched yet: counterexamples go into the ledger, the rest into `found`."""
        setting, attacks, trace = self.setting, self.attacks, found.trace
        whole = Progress(tell=setting.progress, of=len(attacks) * len(samples))
        for number, attack in enumerate(attacks):
            # A search that was not examined, because its gate ended in an error, stands for nothing.
            search_key, memory = self.key(attack), setting.memory
            settled = memory.ledger.settled(search_key, self.levels) if search_key in memory.examined else {}
            # A gate's own minimum-norm search is for distances, even if a counterexample is known.
            left = samples if attack.minimum_norm and len(attacks) == 1 else self._unbroken(samples)
            if isinstance(attack, QueryAttack) and found.oracle is None:
                found.asked_last |= dict.fromkeys(left, attack.name)
            found.settled |= {sample: settled[sample] for sample in left if sample in settled}
            left = [sample for sample in left if sample not in settled]
            found.searched.update(left)
            progress = whole.after((number + 1) * len(samples) - len(left))
            nearest = len(attacks) == 1 and self.to_the_nearest
            if isinstance(attack, GradientAttack):
                self._run_gradient_attack(attack, left, trace, progress, enough=-1.0 if nearest else self.levels)
            else:
                oracle = found.oracle or WhiteBox(setting.candidate, exact=self.too_fine)
                self._run_query_attack(attack, oracle, left, trace, progress)
            self._remember(attack, left, trace, nearest=nearest)

    @property
    def levels(self) -> float:
        """How far counterexamples may lie, in grey levels."""
        return float(self.ball.levels)

    @cached_property
    def attacks(self) -> Searches:
        """The attacks of the gate, in the order in which they run."""
        if self.instead:
            return self.instead
        gate = self.gate
        assert gate.attack is not None
        attacks = build(
            gate.attack,
            self.ball,
            self.goal,
            queries=gate.queries,
            stored=gate.oracle == "stored",
            patterns=gate.by_patterns,
            quick_first=gate.descending,
        )
        # Only gradients are averaged over looks: under conditions the ensemble leaves out Square, which asks.
        return attacks if gate.conditions is None else tuple(one for one in attacks if isinstance(one, GradientAttack))

    @cached_property
    def viewer(self) -> Viewer:
        """How proposals are looked at."""
        return viewer_of(self.gate, self.setting.candidate, self.goal, maximum=self.setting.samples.maximum)

    @property
    def eot(self) -> EOT | None:
        """What gradients are means over, if anything is drawn."""
        return eot_of(self.gate, self.setting.candidate)

    def follows_artefact(self, attack: GradientAttack) -> bool:
        """Whether an attack follows the artefact from the beginning: minimum-norm searches live at the border."""
        return self.gate.surrogates is None and (attack.minimum_norm or self.too_fine)

    @property
    def too_fine(self) -> bool:
        """Whether margins change so little within the ball that a faster form shows nothing but its own rounding."""
        form = self.setting.candidate.search_form
        return form is not None and not form.resolves(self.gate.norm, self.ball.radius / _NEAR)

    def _unbroken(self, samples: Sequence[int]) -> list[int]:
        """The samples without a known counterexample."""
        known = self.setting.memory.ledger.within(self.family, self.levels)
        return [sample for sample in samples if sample not in known]

    @cached_property
    def _starting_images(self) -> StartingImages:
        """Starting images for a gate whose only attack starts from another image."""
        setting = self.setting
        return StartingImages(
            setting.samples,
            setting.labels,
            self.goal,
            seed=setting.seed,
            name=f"{self.gate.id}/{self.attacks[0].name}",
            device=setting.candidate.device,
        )

    def key(self, attack: GradientAttack | QueryAttack) -> Hashable:
        """The key under which searches stand for one another: the same attack of the same entry of the policy."""
        return self.family, self.gate.entry, attack.name

    def _remember(
        self, attack: GradientAttack | QueryAttack, searched: Sequence[int], trace: Trace, *, nearest: bool
    ) -> None:
        """Settle samples: a minimum-norm search does so at every budget, one that goes down a ladder at smaller ones.

        If it ended with the first counterexample within the budget, it stands only for samples where it found none.
        """
        if attack.minimum_norm:
            settled, levels = searched if nearest else self._unbroken(searched), inf
        elif self.gate.descending:
            settled = [sample for sample in self._unbroken(searched) if sample not in trace.unstarted]
            levels = self.levels
        else:
            return
        followable = {sample: sample in trace.followable for sample in settled}
        self.setting.memory.ledger.settle(self.key(attack), levels, followable)

    def _run_gradient_attack(
        self, attack: GradientAttack, samples: Sequence[int], trace: Trace, progress: Progress, *, enough: float
    ) -> None:
        """Run one attack; then again, with the artefact's own gradients, on samples where it came near.

        Near is as far as a faster form and the artefact may differ: there the faster form can be wrong about which side
        a point is on.
        """
        candidate = self.setting.candidate
        white_box = WhiteBox(candidate, exact=self.follows_artefact(attack))
        closely = white_box.error > 0 and self.surrogates is None and self.eot is None
        doubtful_margin = _NEAR * white_box.error if closely else None
        for part in Ends.parts(samples, self.setting.samples.shape_of) if closely else [samples]:
            ends = Ends()
            self._run(
                attack,
                self.surrogates or white_box,
                [(sample, 0) for sample in part],
                trace,
                progress,
                known_starts=partial(self._known_starts, attack),
                on_hold=partial(self._on_hold, attack, ends, doubtful_margin),
                doubtful_margin=doubtful_margin,
                enough=enough,
            )
            self._run(
                closer(attack),
                WhiteBox(candidate, exact=True),
                [(sample, ends.restart(sample)) for sample in self._unbroken(part) if sample in ends],
                trace,
                SILENT,
                known_starts=ends.known if attack.steps > 1 else anew,  # a single step is one from the image
                enough=enough,
            )
            progress = progress.after(len(part))

    def _run(
        self,
        attack: GradientAttack,
        access: Gradients,
        starts: Sequence[Start],
        trace: Trace,
        progress: Progress,
        *,
        known_starts: KnownStarts,
        on_hold: OnHold = forget,
        doubtful_margin: float | None = None,
        enough: float,
    ) -> None:
        clean_logits = partial(self._clean_logits, access) if isinstance(access, WhiteBox) else None
        for group, told in self._groups(starts, progress):
            shape = self.setting.samples.shape_of(group[0][0])
            with self._recorder() as recorder:
                GradientLoop(
                    attack=attack,
                    task=self._task(attack, trace, recorder, told),
                    access=access,
                    ball=self.ball.widest(shape) if attack.minimum_norm else self.ball,
                    known_starts=known_starts,
                    on_hold=on_hold,
                    doubtful_margin=doubtful_margin,
                    enough=enough,
                    clean_logits=clean_logits,
                    eot=self.eot,
                    only_ends=isinstance(access, Surrogates) or isinstance(self.gate.attack, RP2Spec),
                ).run(group)

    def _run_query_attack(
        self, attack: QueryAttack, oracle: Oracle, samples: Sequence[int], trace: Trace, progress: Progress
    ) -> None:
        """Run one attack that asks an oracle."""
        for group, told in self._groups([(sample, 0) for sample in samples], progress):
            with self._recorder() as recorder:
                QueryLoop(
                    attack=attack,
                    task=self._task(attack, trace, recorder, told),
                    oracle=oracle,
                    pixels=prod(self.setting.samples.shape_of(group[0][0])),
                    stored=self.gate.oracle == "stored",
                    ball=self.ball,
                    starting_images=self._starting_images if attack.starts_misread else None,
                ).run(group)

    def _groups(self, starts: Sequence[Start], progress: Progress) -> Iterator[tuple[list[Start], Progress]]:
        """Starts by the shape of their images, and the progress of each group."""
        for group in batches(starts, lambda start: self.setting.samples.shape_of(start[0])):
            yield group, progress
            progress = progress.after(len(group))

    def _recorder(self) -> Recorder:
        # Going down a ladder, the next budget is smaller, and searches there begin on the way here.
        keep = [
            one.name
            for one in self.attacks
            if self.gate.descending and isinstance(one, GradientAttack) and begins_anywhere(one)
        ]
        return Recorder(gate=self.gate, setting=self.setting, family=self.family, warm_starts_of=keep)

    def _task(self, attack: GradientAttack | QueryAttack, trace: Trace, recorder: Recorder, progress: Progress) -> Task:
        """What every loop is given."""
        setting, gate, names = self.setting, self.gate, self.setting.samples.names
        return Task(
            candidate=setting.candidate,
            viewer=self.viewer,
            goal=self.goal,
            labels=setting.labels,
            load=lambda numbers: as_shares(setting.samples, numbers, setting.candidate.device),
            key=lambda sample, restart: key(setting.seed, f"{gate.id}/{attack.name}", names[sample], restart),
            on_hit=recorder.keep,
            on_leave=recorder.record,
            progress=progress,
            aim=self._aim,
            trace=trace,
        )

    def _aim(self, sample: int, rank: int) -> int:
        """The `rank`-th likeliest wrong label on the clean image, from 0.

        With several findings, the `rank`-th nearest to its threshold of those that the goal is about; after the last
        one comes the first.
        """
        logits, label = self.setting.logits[[sample]], self.setting.labels[[sample]]
        if self.goal.multilabel:
            logits = self.setting.candidate.head.at_operating_point(logits)
            order = margins_of_findings(self.goal, logits, label)[0].argsort(descending=True, stable=True)
            return int(order[rank % int(self.goal.attackable_findings(label).sum())])
        order = logits[0].argsort(descending=True, stable=True)
        return int(order[order != label][rank])

    def _known_starts(
        self, attack: GradientAttack, entering: Sequence[Start]
    ) -> tuple[np.ndarray, torch.Tensor] | None:
        """First restarts begin where the same attack ended at another budget."""
        first = [sample if restart == 0 else None for sample, restart in entering]
        return self.setting.memory.warm_starts.known(self.gate.entry, attack.name, first)

    def _on_hold(
        self,
        attack: GradientAttack,
        ends: Ends,
        doubtful_margin: float | None,
        rows: GradientRows,
        images: torch.Tensor,
    ) -> None:
        """Keep where rows that held ended: for larger budgets and, unless the margin is None, for a closer look."""
        changes, margins = images - rows.clean, rows.best_margin.tolist()
        if begins_anywhere(attack):
            first = np.flatnonzero(rows.restart == 0)  # later restarts may have other aims
            self.setting.memory.warm_starts.keep(
                self.gate.entry, attack.name, rows.sample[first], changes[torch.from_numpy(first)]
            )
        if doubtful_margin is not None:
            for row, (sample, restart) in enumerate(zip(rows.sample.tolist(), rows.restart.tolist(), strict=True)):
                if margins[row] >= -doubtful_margin:
                    ends.keep(sample, restart, margins[row], changes[row])

    def _clean_logits(self, access: WhiteBox, rows: GradientRows) -> torch.Tensor:
        """Logits (N, K) of clean images as a search sees them; computed anew if it does not see the artefact."""
        if access.asks_artefact:
            return self.setting.logits[rows.sample]
        return access.scores(torch.from_numpy(rows.sample), rows.clean)

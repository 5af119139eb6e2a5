"""What came of showing a report's counterexamples to the candidate again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GateReplay:
    """What came of one gate's counterexamples and figures."""

    id: str
    stated: int  # counterexamples that the report states
    read: int  # those of them that were shown to the candidate again; for the others, files and distances are checked
    held: int  # samples that were attacked and held, as the report states: only another run shows it
    amiss: tuple[str, ...]  # a sentence for each thing that is not as the report states it
    not_read: str = ""  # why they were not shown
    not_compared: str = ""  # why clean readings are as they are stated
    not_counted: str = ""  # which figures are as they are stated, and were not counted again


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a whole report, in its order of gates."""

    gates: tuple[GateReplay, ...]
    amiss: tuple[str, ...] = ()  # of the report as a whole
    not_run: tuple[str, ...] = ()  # gates of the policy that the report says were not run
    as_stated: tuple[str, ...] = ()  # keys of the report with which nothing was compared
    not_compared: tuple[str, ...] = ()  # files beside the report with which nothing was compared

    @property
    def agrees(self) -> bool:
        """Whether nothing is amiss."""
        return not self.amiss and not any(gate.amiss for gate in self.gates)

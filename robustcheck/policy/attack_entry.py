"""What the attacks' entries in a policy have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from robustcheck.policy.fields import Section

Knowledge = Literal["white-box", "scores", "top-k", "label", "transfer", "none"]


class AttackEntry(Section):
    """An attack's parameters, and what it is, needs and cites."""

    summary: ClassVar[str]
    needs: ClassVar[str]
    source: ClassVar[str]
    knowledge: ClassVar[Knowledge] = "white-box"
    linf_only: ClassVar[bool] = False
    budget: ClassVar[Literal["epsilon", "size", "none"]] = "epsilon"  # the gate's key that bounds what may change

    @property
    def least_queries(self) -> int:
        """What a sample's first step costs: a limit below it admits no search at all."""
        return 0

    @property
    def queries_a_step(self) -> int:
        """The least that a step costs if its direction depends on answers.

        A limit of a few such steps is hardly a search.
        """
        return 1


LossField = Literal["cross_entropy", "margin", "dlr"]
LOSS = "the loss to maximise: cross_entropy, margin, or dlr (the margin, independent of the logits' scale)"

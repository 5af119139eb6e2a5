"""What is compared with what: each attack of ours that may only ask, and the peers' beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from benchmarks import query_labels, query_scores
from benchmarks.libraries import LIBRARIES
from benchmarks.query_job import Plan, QueryAttack, estimate_at
from robustcheck.policy import HopSkipJumpSpec

OURS = "robustcheck"
PLAIN = "robustcheck, plain"  # as peers do it, where ours has a default of its own that finds more
NES_LEAST = 1 + query_scores.SAMPLES


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library's attack."""

    title: str
    made_by: str  # its library, by the name that `benchmarks.libraries` has for it
    build: Callable[[nn.Module, Plan], QueryAttack]
    how: str  # what it asks, and how it is held to the number of queries
    leaves: bool = False  # but for the first and the last, a call asks once about each sample that is not fooled yet


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One attack of ours, and those of the peers."""

    title: str
    norm: Literal["linf", "l2"]
    ours: dict[str, Any]  # as a policy says it
    peers: dict[str, Peer]
    plain: dict[str, Any] | None = None  # what makes ours ask as peers do; None: it does
    least: int = 40  # queries below which somebody could not begin
    hops: bool = False  # ours is HopSkipJump, whose first estimate is shorter at few queries

    def attack(self, queries: int, *, plain: bool) -> dict[str, Any]:
        """Our attack as a policy says it, with so many queries."""
        ours = {**self.ours, **((self.plain or {}) if plain else {})}
        if not self.hops:
            return ours
        default = HopSkipJumpSpec.model_fields["samples"].default
        return {**ours, "samples": estimate_at(queries, default)}


def _peer(library: str, title: str, build: Callable[[nn.Module, Plan], QueryAttack], how: str, **more: Any) -> Peer:
    return Peer(title=f"{LIBRARIES[library].title} {title}", made_by=library, build=build, how=how, **more)


_IN_A_BATCH = "iterations that come nearest to the queries; a batch goes on until its last sample is done"
_ALONE = "iterations that come nearest to the queries; sample after sample. It ends with a step away from the border"

_HOPS_IN_LINF = {
    "foolbox": _peer("foolbox", "HopSkipJumpAttack", query_labels.foolbox_hopskipjump_linf, _IN_A_BATCH),
    "art": _peer("art", "HopSkipJump", query_labels.art_hopskipjump_linf, _ALONE),
}

PAIRS = {
    "square": Pair(
        title="Square, L∞",
        norm="linf",
        ours={"name": "square"},
        peers={
            "torchattacks": _peer(
                "torchattacks",
                "Square",
                query_scores.torchattacks_square,
                "n_queries, less the stripes, the clean image, and the result, about which it asks too",
                leaves=True,
            ),
            "art": _peer(
                "art",
                "SquareAttack",
                query_scores.art_square,
                "a step for each 3 queries: it asks about all samples, and twice more about each that is not fooled",
            ),
        },
    ),
    "hopskipjump-l2": Pair(
        title="HopSkipJump, L2",
        norm="l2",
        ours={"name": "hopskipjump"},
        plain={"blur": 0, "momentum": 0},
        hops=True,
        peers={
            "foolbox": _peer("foolbox", "HopSkipJumpAttack", query_labels.foolbox_hopskipjump_l2, _IN_A_BATCH),
            "foolbox-apart": _peer(
                "foolbox",
                "HopSkipJumpAttack, a step a sample",
                query_labels.foolbox_hopskipjump_l2_apart,
                "the same, but steps have length 1 in each sample and not over the batch, as they would one by one",
            ),
            "art": _peer("art", "HopSkipJump", query_labels.art_hopskipjump_l2, _ALONE),
        },
    ),
    "hopskipjump-linf": Pair(
        title="HopSkipJump, L∞",
        norm="linf",
        ours={"name": "hopskipjump"},
        plain={"blur": 0, "momentum": 0},
        hops=True,
        peers=_HOPS_IN_LINF,
    ),
    "labels-linf": Pair(
        title="HopSkipJump, L∞, beside our RayS",
        norm="linf",
        ours={"name": "rays"},
        peers=_HOPS_IN_LINF,
    ),
    "boundary": Pair(
        title="the boundary attack, L2, beside our HopSkipJump",
        norm="l2",
        ours={"name": "hopskipjump"},
        plain={"blur": 0, "momentum": 0},
        hops=True,
        peers={
            "foolbox": _peer(
                "foolbox", "BoundaryAttack", query_labels.foolbox_boundary, "a step asks once, each tenth twice"
            ),
            "art": _peer(
                "art",
                "BoundaryAttack",
                query_labels.art_boundary,
                "a step for each 33 queries, sample after sample: 20 images, and nearer ones of those read otherwise",
            ),
        },
    ),
    "nes": Pair(
        title="NES, L∞",
        norm="linf",
        ours={"name": "nes"},
        plain={"blur": 0, "momentum": 0, "sigma": query_scores.SIGMA},
        least=NES_LEAST,
        peers={
            "foolbox": _peer(
                "foolbox",
                "LinfPGD, es_gradient_estimator",
                query_scores.foolbox_nes,
                "a step for each 51 queries; noise is weighed by the loss of the whole batch",
            ),
            "foolbox-apart": _peer(
                "foolbox",
                "the same, a loss a sample",
                query_scores.foolbox_nes_apart,
                "the same, but noise is weighed by the sample's own loss, as it would be one by one",
            ),
            "art": _peer(
                "art",
                "PGD on QueryEfficientGradientEstimationClassifier",
                query_scores.art_nes,
                "a step for each 50 queries, sample after sample",
            ),
        },
    ),
}

"""The attacks that may only ask, a limited number of times: parameters, ranges, and what each is, needs and cites."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt

from robustcheck.policy.attack_entry import LOSS, AttackEntry, LossField
from robustcheck.policy.fields import Number, QuantityField, RestartsField, ShareField

SamplesField = Annotated[StrictInt, Field(ge=2, le=100_000, multiple_of=2)]
MomentumField = Annotated[Number, Field(ge=0, lt=1)]
BlurField = Annotated[Number, Field(ge=0, le=0.25)]
_BLUR = (
    "blur of half of what makes up an estimate's directions: a Gaussian's standard deviation, as a share of the "
    "image's shorter side; 0 leaves all pixels independent, as in the paper"
)
_SIGMA = "σ, how far from the point an estimate asks (at least one grey level with oracle: stored)"
_FAILED_TRIES = 6  # at most, of a smaller ball before the first estimate: each shrinks it by half as much, down to 2 %


class SlowToBegin(AttackEntry):
    """Attacks that turn fewer samples than random patterns do until they have made some steps."""

    begins_after: ClassVar[int]  # steps

    patterns: StrictBool = Field(
        True,
        description="spend queries that are too few to begin on random stripes and blocks of ±epsilon, which turn more "
        "(in linf, unless the goal is targeted)",
    )

    def by_patterns(self, *, queries: int, norm: str, goal: str) -> bool:
        """Whether patterns take its place.

        In L2 they turn more than it does on some candidates, and far less on others. If a single reading will do, they
        hardly lead to it.
        """
        few = queries < self.begins_after * self.queries_a_step
        return self.patterns and few and norm == "linf" and goal != "targeted"


class _Estimating(AttackEntry):
    """Attacks that estimate gradients from pairs of images."""

    samples: SamplesField = Field(50, description="scores per estimate, at pairs x + σu, x - σu: an even number")
    momentum: MomentumField = Field(0.9, description="share of the earlier estimates that is kept")
    blur: BlurField = Field(0.025, description=_BLUR)


class _Shrinking(_Estimating, SlowToBegin):
    """Attacks that near the sample from another image."""

    step: ShareField = Field(
        0.25, description="size of a step, as a share of the radius of the ball, which shrinks to epsilon"
    )

    @property
    def queries_an_estimate(self) -> int:
        """A score for each image of its pairs."""
        return self.samples

    @property
    def least_queries(self) -> int:
        """A start, tries of a smaller ball that all fail, an estimate, and a try along it."""
        return 2 + _FAILED_TRIES + self.queries_an_estimate

    @property
    def queries_a_step(self) -> int:
        """An estimate, and one try along it: further tries along it use no other answers."""
        return 1 + self.queries_an_estimate


class NESSpec(_Estimating):
    """Gradient ascent on estimates of the gradient."""

    summary = "natural evolution strategies: PGD whose gradient is estimated from scores at pairs of noisy images"
    needs = "scores, epsilon, queries"
    source = "Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, algorithm 1; the authors' code for what it omits"
    knowledge = "scores"

    name: Literal["nes"]
    sigma: QuantityField | None = Field(None, description=f"{_SIGMA}; default 0.001, in L∞ epsilon / 2 if that is more")
    step_size: QuantityField | None = Field(None, description="size of the first step (default: epsilon / 4)")
    least_step: ShareField = Field(0.01, description="smallest step, as a share of the first")
    plateau: Annotated[StrictInt, Field(ge=2, le=1000)] = Field(
        5, description="steps over which the loss has to rise, or else the step is halved"
    )
    loss: LossField = Field("margin", description=LOSS)

    @property
    def least_queries(self) -> int:
        """The point and an estimate around it."""
        return 1 + self.samples

    @property
    def queries_a_step(self) -> int:
        """The point, and an estimate around it."""
        return self.least_queries


class SquareSpec(SlowToBegin):
    """Random search that asks for scores only."""

    summary = "square attack: random squares of ±ε, kept if they raise the loss; asks for scores, not gradients"
    needs = "scores, epsilon (L∞), queries"
    source = "Andriushchenko, Croce, Flammarion, Hein 2020, arXiv 1912.00049, algorithms 1 and 2"
    knowledge = "scores"
    begins_after = 20
    linf_only = True

    name: Literal["square"]
    share: ShareField = Field(0.8, description="share of the image's area that the first square covers (p)")
    restarts: RestartsField = Field(1, description="independent starts, which share the queries")
    loss: LossField = Field("margin", description=LOSS)

    @property
    def least_queries(self) -> int:
        """Stripes and a square for each restart."""
        return 2 * self.restarts

    @property
    def queries_a_step(self) -> int:
        """A square for each restart."""
        return self.restarts


class PartialInformationSpec(_Shrinking):
    """From an image of the wanted label to the sample, seeing the scores of the best few labels."""

    summary = "from an image of the wanted label towards the sample, while that label stays among the k best"
    needs = "scores of the k best labels, epsilon, queries; other images of the wanted label among the samples"
    source = "Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, algorithm 2"
    knowledge = "top-k"
    begins_after = 3

    name: Literal["partial_information"]
    k: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(1, description="how many labels an answer shows")
    sigma: QuantityField | None = Field(None, description=f"{_SIGMA}; default 0.001")


class LabelOnlySpec(_Shrinking):
    """As partial_information, seeing labels only."""

    summary = "as partial_information, but from labels alone: a score is the share of noisy copies read as wanted"
    needs = "labels, epsilon, queries; other images of the wanted label among the samples"
    source = "Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, section 2.4"
    knowledge = "label"
    begins_after = 3

    name: Literal["label_only"]
    copies: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        1, description="noisy copies per score (in the paper 50; more directions are worth more)"
    )
    radius: QuantityField | None = Field(None, description="radius of the copies' noise (default: epsilon / 4)")
    sigma: QuantityField | None = Field(None, description=f"{_SIGMA}; default epsilon / 4")

    @property
    def queries_an_estimate(self) -> int:
        """As many for each score as there are copies."""
        return self.samples * self.copies


class HopSkipJumpSpec(SlowToBegin):
    """From an image of the wanted label along the border to the sample, seeing labels only."""

    summary = "walks along the decision border from an image of the wanted label towards the sample; asks for labels"
    needs = "labels, epsilon, queries; other images of the wanted label among the samples, or noise read as that label"
    source = "Chen, Jordan, Wainwright 2020, arXiv 1904.02144, algorithm 2"
    knowledge = "label"
    begins_after = 2

    name: Literal["hopskipjump"]
    samples: Annotated[StrictInt, Field(ge=2, le=10_000)] = Field(
        30,
        description="queries of the first estimate of the border; later ones grow with √t (B₀; in the paper 100)",
    )
    delta: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.08,
        description="how far from the border an estimate asks, as a share of the distance to the sample (δ; in the "
        "paper it falls with the number of pixels)",
    )
    momentum: MomentumField = Field(0.5, description="share of the earlier estimates that is kept (in the paper none)")
    blur: BlurField = Field(0.025, description=_BLUR)

    @property
    def least_queries(self) -> int:
        """A start, a binary search, an estimate and a step."""
        return 22 + self.samples

    @property
    def queries_a_step(self) -> int:
        """The first iteration, without the start; in later ones the estimates grow."""
        return self.least_queries - 1


class RaySSpec(SlowToBegin):
    """Search for the direction of ±1 along which the border is nearest, seeing labels only."""

    summary = "ray search: flips the signs of ever smaller blocks if that brings the border nearer; asks for labels"
    needs = "labels, epsilon (L∞), queries"
    source = "Chen, Gu 2020, arXiv 2006.12792, algorithm 3"
    knowledge = "label"
    begins_after = 12
    linf_only = True

    name: Literal["rays"]

    @property
    def least_queries(self) -> int:
        """A direction, and a binary search along it for a grey level of 8 bits."""
        return 1 + 8

    @property
    def queries_a_step(self) -> int:
        """The same: a direction that leads farther costs one query, but one that is nearer is searched."""
        return self.least_queries


class NoiseSpec(AttackEntry):
    """Random images at the border of the ball: what an attack has to beat."""

    summary = "random points at the border of the ball: no attack, but what any attack has to beat"
    needs = "labels, epsilon, queries"
    source = "the control of Carlini et al. 2019, arXiv 1902.06705, section 5.3"
    knowledge = "label"

    name: Literal["noise"]

    @property
    def least_queries(self) -> int:
        """A point."""
        return 1

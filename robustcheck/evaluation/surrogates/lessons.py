"""What a surrogate learns from: the train split, with the data's labels or with what the candidate answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import torch

from robustcheck.data import Samples, in_random_order, load_samples
from robustcheck.errors import CandidateError, DataError
from robustcheck.evaluation.progress import Tell
from robustcheck.models import Candidate, LabelOracle
from robustcheck.models.batches import as_shares, batches
from robustcheck.models.head import NO_ANSWER
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import DataSpec, ModelSpec, PreprocessSpec, TrainSpec
from robustcheck.words import plural

_KEPT_BYTES = 1 << 30  # of images that are kept in memory, so that files are not decoded in every epoch
_ASKED = 64  # images that the candidate is asked about at once, at most
_CPU = torch.device("cpu")
_LEFT_TO_TRAINING = {"range", "mean", "std", "layout"}
_NONE_OF_IT = PreprocessSpec().model_dump(include=_LEFT_TO_TRAINING)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Images of the train split, and how they are to be read."""

    samples: Samples  # the split
    chosen: tuple[int, ...]  # numbers in it
    readings: torch.Tensor  # (N,) of those
    answered_by: str | None  # sha256 of the candidate that was asked; None: the data's labels
    judged: int  # how many of the split are judged, or in a group that is: they are not learned from
    unanswered: int = 0  # images that the candidate was asked about without an answer
    groups_unknown: bool = False  # of the split, although those of the judged samples are known

    @property
    def words(self) -> str:
        """What reports say after "trained here for 10 epochs"."""
        count = plural(len(self.chosen), "image")
        related = "" if self.samples.group_names is None else ", or of a group that is"
        without = f"; {self.judged:,} of the train split are judged{related}, and are left out" if self.judged else ""
        without += "; which of its images belong to judged groups is not known" if self.groups_unknown else ""
        if self.answered_by is None:
            return f"on {count} of the train split (the data's labels){without}"
        silent = f" (and {self.unanswered:,} that it gave no answer about)" if self.unanswered else ""
        return f"on the candidate's own answers about {count}{silent}{without}"

    def images(self, preprocess: PreprocessSpec, device: torch.device) -> Callable[[Sequence[int]], torch.Tensor]:
        """Maps numbers, 0 to N - 1, to shares (M, C, H, W) of the window or the full range, in the network's size.

        Raises:
            CandidateError: the preprocessing does not take them, or leaves them in different sizes.
        """
        whole, resized = (
            Preprocess.of(spec, _CPU, self.samples) for spec in (preprocess, preprocess.model_copy(update=_NONE_OF_IT))
        )
        shapes = {self.samples.shape_of(index) for index in self.chosen}
        for shape in shapes:
            whole.check(shape)
        if len(sizes := {whole.shape(shape) for shape in shapes}) > 1:
            raise CandidateError(
                f"the images of the train split are of {len(sizes)} sizes, but a batch is of one: set "
                "train.preprocess.resize: [height, width], or crop"
            )

        @lru_cache(maxsize=max(1, _KEPT_BYTES // (4 * prod(sizes.pop()))))
        def image(number: int) -> torch.Tensor:
            return resized(as_shares(self.samples, [self.chosen[number]], _CPU))

        return lambda numbers: torch.cat([image(number) for number in numbers]).to(device)


@dataclass(frozen=True, kw_only=True)
class Need:
    """Who needs the train split."""

    key: str  # in the policy
    instead: str  # what the error offers as an alternative
    on_judged: bool = False  # what is learned is laid on the judged images, so it needs their channels


def left_to_training(preprocess: PreprocessSpec) -> PreprocessSpec:
    """The steps of preprocessing that images from `Lessons.images` still have before them."""
    return PreprocessSpec().model_copy(update=preprocess.model_dump(include=_LEFT_TO_TRAINING))


FOR_SURROGATES = Need(key="train", instead="or leave train out and name a model in surrogate")
FOR_PATCHES = Need(
    key="attack",
    instead="set attack.train_on: 0.5 to train on half of the samples and judge the others",
    on_judged=True,
)


def train_split(data: DataSpec, model: ModelSpec, folder: Path, need: Need, judged: Samples) -> Samples:
    """All samples of the train split of a policy's data.

    Raises:
        DataError: there is none, it cannot be read, or its levels are not those of the samples that are judged.
    """
    whole = data.model_copy(update={"split": "train", "samples": None, "subgroups": ()})
    try:
        samples = _with_groups(whole, model, folder)
    except DataError as error:
        raise DataError(_no_split(data, str(error), need)) from None
    if samples.info.split != "train":
        raise DataError(_no_split(data, "; ".join(samples.info.notes) or "it has no splits", need))
    if samples.images.space != judged.images.space:
        why = f"its images store {samples.images.space}, but those that are judged {judged.images.space}"
        raise DataError(_no_split(data, f"{why}; give data.bits, and for CT data.hounsfield", need))
    return samples


def check_channels(data: DataSpec, split: Samples, need: Need, judged: Samples) -> None:
    """Check that the train split has as many channels as the judged samples, if `need` requires it.

    Raises:
        DataError: it does not.
    """
    channels, own = judged.shape_of(0)[0], split.shape_of(0)[0]
    if need.on_judged and channels != own:
        why = f"its images have {plural(own, 'channel')}, but those that are judged have {channels}"
        raise DataError(_no_split(data, f"{why}; convert the files", need))


def _with_groups(whole: DataSpec, model: ModelSpec, folder: Path) -> Samples:
    """All samples of a split; one without groups is taken as it is."""
    try:
        return load_samples(whole, model, folder=folder)
    except DataError:
        if whole.group is None:
            raise
    return load_samples(whole.model_copy(update={"group": None}), model, folder=folder)


def apart_from(split: Samples, numbers: Iterable[int], judged: Samples, about: Iterable[int]) -> list[int]:
    """Which samples of a split are not judged, nor in a group that is: splits may overlap.

    A sample is recognised by its stored content as well as by its name, which in an array is only its position.

    Args:
        split: what may be learned from.
        numbers: of samples of it.
        judged: the gate's samples, some of which are judged.
        about: the numbers of these.
    """
    about = list(about)
    names = {judged.names[number] for number in about}
    contents = {judged.images.content_sha256(number) for number in about}
    groups = {judged.group_names[number] for number in about} if judged.group_names else set()
    return [
        number
        for number in numbers
        if split.names[number] not in names
        and not (split.group_names and split.group_names[number] in groups)
        and split.images.content_sha256(number) not in contents
    ]


def not_judged(split: Samples, judged: Samples) -> tuple[int, ...]:
    """Numbers of the samples of a split that are not among those that are judged.

    Raises:
        DataError: there is none.
    """
    left = tuple(apart_from(split, range(len(split)), judged, range(len(judged))))
    if not left:
        related = ", or of a group (data.group) that is" if judged.group_names else ""
        raise DataError(
            f"train: every image of the train split is also judged{related}, but what is judged must not be learned "
            f"from: set data.split: test, {FOR_SURROGATES.instead}"
        )
    return left


def _no_split(data: DataSpec, why: str, need: Need) -> str:
    return f"{need.key}: needs a train split of {data.source} to learn from ({why}); {need.instead}"


def lessons(
    spec: TrainSpec,
    samples: Samples,
    among: Sequence[int],
    candidate: Candidate,
    answers: dict[int, int],
    progress: Tell | None = None,
) -> Lessons:
    """What is learned from the train split, or those of its samples that are not judged.

    With `labels: candidate`, the candidate is asked about at most `queries` of its images, each once; those that it
    does not answer are left out, and the data's labels are not used. Earlier answers, by number in the split, are in
    `answers` and not asked for again; new ones are added.

    Raises:
        CandidateError: the candidate gives all images one answer.
        DataError: the data have one label only.
    """
    judged = len(samples) - len(among)
    if spec.labels == "data":
        everything = Lessons(
            samples=samples,
            chosen=tuple(among),
            readings=torch.tensor(samples.labels[list(among)]),
            answered_by=None,
            judged=judged,
        )
        if len(everything.readings.unique()) == 1:
            only = candidate.head.name(int(everything.readings[0]))
            raise DataError(f"train: every image of the train split is labelled {only}: that teaches nothing")
        return everything
    # By the names' own ranks: which answers are stolen, and the order of learning, do not depend on images' positions.
    may = set(among)
    order: list[int] = in_random_order(samples.names, seed=spec.seed).tolist()
    asked = [index for index in order if index in may][: spec.queries]
    answers |= _ask(candidate, samples, [index for index in asked if index not in answers], progress)
    chosen = tuple(index for index in asked if answers[index] != NO_ANSWER)
    if len(given := {answers[index] for index in chosen}) < 2:
        what = f"answers {candidate.head.name(given.pop())} about" if given else "gives no answer about"
        raise CandidateError(
            f"the candidate {what} every image of the train split that it was asked about ({len(asked):,}): that "
            "teaches nothing; raise train.queries, or set train.labels: data"
        )
    return Lessons(
        samples=samples,
        chosen=chosen,
        readings=torch.tensor([answers[index] for index in chosen]),
        answered_by=candidate.info.sha256,
        judged=judged,
        unanswered=len(asked) - len(chosen),
    )


def _ask(candidate: Candidate, samples: Samples, indexes: Sequence[int], progress: Tell | None) -> dict[int, int]:
    """What the candidate decides about each of these samples."""
    answers: dict[int, int] = {}
    oracle = LabelOracle(candidate, samples=len(samples), limit=1)
    for chunk in batches(indexes, samples.shape_of, min(_ASKED, candidate.chunks.limit)):
        labels = oracle.labels(torch.tensor(chunk), as_shares(samples, chunk, candidate.device))
        answers |= zip(chunk, labels.tolist(), strict=True)
        if progress:
            progress(len(answers), len(indexes))
    return answers

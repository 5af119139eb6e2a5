"""The models that a transfer attack follows in the candidate's place: loaded, or trained here first."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustcheck.data import Samples
from robustcheck.errors import AccessError, CandidateError, DataError, EvaluationError
from robustcheck.evaluation.environment import environment
from robustcheck.evaluation.progress import Tell
from robustcheck.evaluation.surrogates import training
from robustcheck.evaluation.surrogates.lessons import Lessons, left_to_training, lessons, not_judged
from robustcheck.evaluation.surrogates.weight_cache import kept
from robustcheck.models import Candidate, load_candidate
from robustcheck.models.batches import as_shares, batches
from robustcheck.policy import ModelSpec, SurrogatesEntry, SurrogateSpec, TrainSpec
from robustcheck.user_code_files import all_sources
from robustcheck.words import plural

_TRIED = 16  # samples on which a surrogate's gradient is seen before it is followed


@dataclass(frozen=True, kw_only=True)
class LoadedSurrogate:
    """A model of the adversary's, ready to be followed."""

    path: str  # its file as the policy says it, or the architecture that was trained
    candidate: Candidate
    logits: torch.Tensor  # (N, K) on the gate's samples, unattacked
    trained: str | None  # how, if it was trained here


def load_surrogates(
    attack: SurrogatesEntry,
    *,
    model: ModelSpec,
    split: Callable[[], Samples],
    candidate: Candidate,
    answers: dict[int, int],
    samples: Samples,
    folder: Path,
    progress: Tell | None,
) -> list[LoadedSurrogate]:
    """Every surrogate of an attack: the named ones, then the trained ones, in the policy's order.

    Args:
        attack: names them.
        model: the candidate as the policy describes it; what a surrogate leaves out is as there.
        split: the train split, which is learned from; asked for once it is needed.
        candidate: is asked, if its answers are what is learned.
        answers: what it has answered about the train split, by number; each image is asked about once.
        samples, folder: the gate's, and the policy's.
        progress: told how far loading (samples), asking (images) or training (steps) is.

    Raises:
        CandidateError: one cannot be loaded or trained, gives no gradients, or reads images in another way than the
            candidate; the message begins with which one it is.
        DataError: there is no train split to learn from.
    """
    several = len(attack.surrogate) + len(attack.train) > 1
    load = partial(_load, folder=folder, samples=samples, among_others=several, progress=progress)
    loaded = []
    for given in attack.surrogate:
        with _about(given.path, given):
            described = _described(given, model)
            loaded.append(load(described, given.path))
    for spec in attack.train:
        with _about(spec.architecture, spec):
            described, origin = _described(spec, model), _origin(spec, folder)
            whole = split()
            taught = lessons(spec, whole, not_judged(whole, samples), candidate, answers, progress)
            taught = replace(taught, groups_unknown=samples.group_names is not None and whole.group_names is None)
            weights = _trained(spec, described, taught, origin, folder, candidate.device, progress)
            described = described.model_copy(update={"path": str(weights)})
            trained = f"trained here for {spec.epochs} {'epoch' if spec.epochs == 1 else 'epochs'} {taught.words}"
            loaded.append(load(described, spec.architecture, trained))
    return loaded


@contextmanager
def _about(name: str, spec: SurrogateSpec | TrainSpec) -> Iterator[None]:
    """Errors of a model as errors of this one: keys of `model` become keys of where it is described."""
    key = "surrogate" if isinstance(spec, SurrogateSpec) else "train"
    try:
        yield
    except DataError:
        raise
    except EvaluationError as error:
        own = re.sub(rf"\bmodel\.(?=({'|'.join(type(spec).model_fields)})\b)", f"{key}.", str(error))
        raise CandidateError(f"surrogate {name}: {own}") from error


def _described(spec: SurrogateSpec | TrainSpec, model: ModelSpec) -> ModelSpec:
    """A surrogate as the policy would describe a candidate; the policy's own checks have seen that they compare.

    What is trained here decides at even odds, since it is shown labels evenly: a threshold that was chosen for a
    candidate among its patients means something else to it. And what has learned the candidate's readings has learned
    where it decides.
    """
    changes: dict[str, Any] = {
        "task": spec.task or model.task,
        "preprocess": spec.preprocess or model.preprocess,
        "operating_point": None if isinstance(spec, TrainSpec) else model.operating_point,
    }
    if spec.architecture:
        changes |= {"architecture": spec.architecture, "architecture_args": spec.architecture_args}
    elif spec.architecture_args:
        changes["architecture_args"] = spec.architecture_args
    plain = SurrogateSpec(path=spec.architecture) if isinstance(spec, TrainSpec) else spec
    own = ("path", "weights", "output", "scores", "output_name", "operators", "trust")
    changes |= {name: getattr(plain, name) for name in own}
    return model.model_copy(update=changes)


def _load(
    described: ModelSpec,
    name: str,
    trained: str | None = None,
    *,
    folder: Path,
    samples: Samples,
    among_others: bool,
    progress: Tell | None,
) -> LoadedSurrogate:
    try:
        own, logits = load_candidate(described, folder=folder, samples=samples, oracles=False, progress=progress)
    except CandidateError as error:
        raise CandidateError(_of_surrogate(str(error))) from error
    if own.network.no_gradients:
        raise CandidateError(_of_surrogate(own.network.no_gradients))
    gradient = _some_gradients(own, samples, logits)
    if among_others and not gradient.any():
        raise CandidateError(
            f"its gradient is zero on {plural(len(gradient), 'sample')}, as where a network rounds: beside others it "
            "would go unnoticed that the attack does not follow it; leave it out"
        )
    if trained and own.head.outputs_probabilities:
        raise CandidateError(
            f"train.architecture: it ends in probabilities, and logits are trained; leave the {own.head.ending} off"
        )
    return LoadedSurrogate(path=name, candidate=own, logits=logits, trained=trained)


def _some_gradients(own: Candidate, samples: Samples, logits: torch.Tensor) -> torch.Tensor:
    """Of a surrogate's scores (N, K), on a few samples of one shape: (M, C, H, W).

    Raises:
        CandidateError: it has none.
    """
    first = next(batches(range(len(samples)), samples.shape_of, limit=_TRIED))
    readings = own.head.decide(logits[first]).to(own.device)
    try:
        # Squared, because scores of two labels may be opposite, and their sum moves with nothing.
        return own.gradient(
            as_shares(samples, first, own.device), readings, readings, lambda scores, *_: scores.square().sum(dim=1)
        )[2]
    except AccessError as error:
        raise CandidateError(_of_surrogate(str(error))) from error


def _of_surrogate(message: str) -> str:
    """A message of loading a candidate, reworded for a surrogate."""
    return re.sub(r"\b(the|this ONNX) candidate\b", r"\1 surrogate", message)


def _trained(
    spec: TrainSpec,
    described: ModelSpec,
    taught: Lessons,
    origin: list[object],
    folder: Path,
    device: torch.device,
    progress: Tell | None,
) -> Path:
    """The file of the weights, which are trained unless the same were before.

    All that decides them makes its name, but for threads and devices, which decide their last bits.
    """
    decisive = {
        "train": spec.model_dump(mode="json"),
        "task": described.task,
        "labels": described.labels,
        "preprocess": described.preprocess.model_dump(mode="json"),
        "samples": [taught.samples.info.sha256, taught.samples.bits, taught.samples.hounsfield, taught.chosen],
        "answers": taught.answered_by and [taught.answered_by, taught.readings.tolist()],
        "origin": origin,
    }

    def make() -> dict[str, torch.Tensor]:
        images = taught.images(described.preprocess, device)
        left = described.model_copy(update={"preprocess": left_to_training(described.preprocess)})
        return training.train(
            spec, left, folder=folder, images=images, readings=taught.readings, device=device, progress=progress
        )

    return kept(hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(), make)


def _origin(spec: TrainSpec, folder: Path) -> list[object]:
    """What an architecture and its training are made of.

    Digests of the files that they are written in, versions of installed packages, and what networks begin with that is
    not drawn: an architecture may read weights from a file.

    Raises:
        CandidateError: the architecture cannot be built.
        UserCodeError: there is no such architecture.
    """
    modules, values = training.origin(spec, folder)
    files, packages = all_sources(modules, folder=folder)
    return [
        values,
        *files.values(),
        hashlib.sha256(Path(training.__file__).read_bytes()).hexdigest(),
        *packages,
        f"torch {torch.__version__}",
        f"robustcheck {environment(None)['robustcheck']}",
    ]

"""From `model:` in a policy to a candidate whose scores can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from math import inf
from pathlib import Path

import torch

from robustcheck.data.samples import Samples
from robustcheck.data.subset import spread, stratified
from robustcheck.errors import CandidateError, NoMemoryError
from robustcheck.lfs_pointers import if_pointer
from robustcheck.models import artefact, devices, stochastic
from robustcheck.models.candidate import Candidate, SearchForm, raw_scores
from robustcheck.models.evaluation_mode import check_evaluation_mode
from robustcheck.models.fast.layout import as_oracles_ask
from robustcheck.models.memory import Chunks, is_out_of_memory
from robustcheck.models.multilabel_head import AnyHead
from robustcheck.models.network import Forward, Network, rows
from robustcheck.models.preprocess import Preprocess
from robustcheck.models.process_settings import check_convolutions, full_precision, left_as_found, seed_all
from robustcheck.models.score_kind import read_head
from robustcheck.models.trial import Trial
from robustcheck.policy import ModelSpec
from robustcheck.policy.model_spec import FORMATS
from robustcheck.results import FileInfo, ModelInfo
from robustcheck.words import listed, printable

_PROBED = 4  # samples that are asked about twice, together and alone
_COMPARED = 16  # samples on which another form of the network, or another layout, is compared with it
_MOST_SHAPES = 8  # on which layouts are compared
_SURE = 10.0  # log-odds, beyond which probabilities round to 0 or 1


def load_candidate(
    spec: ModelSpec,
    *,
    folder: Path,
    samples: Samples,
    seed: int = 0,
    oracles: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Candidate, torch.Tensor]:
    """Load the artefact and ask it about every sample, unattacked: that shows what its scores are.

    Args:
        spec: the policy's.
        folder: from which its path starts.
        samples: that it is asked about.
        seed: for what it draws itself, if it does.
        oracles: whether any will ask it: if so, the fastest way is found by trying.
        progress: told how many samples are done, and of how many.

    Returns:
        The candidate, and its logits (N, K) on the samples; for one that draws, see `stochastic.usual`.

    Raises:
        CandidateError: it cannot be loaded, does not take the samples, or gives answers that cannot be judged.
        EvaluationError: this machine's convolutions are not in float32.
    """
    path = folder / spec.path
    device, device_notes = devices.chosen(spec.device)
    if device.type == "cpu":
        check_convolutions()
    files = _files(path, spec)
    before = artefact.digest(files, path.parent)[1]
    with left_as_found():
        seed_all(seed)  # what a network draws when it is built is the same each time, too
        trial = _as_shipped(Trial.of(spec, _load_within_memory(path, spec, folder, device), samples), seed)
        preprocess, chunks = trial.preprocess, trial.chunks
        torch.manual_seed(seed)
        head, logits, randomness, probe_notes = _asked(spec, trial, progress)
        network = trial.network if randomness is None else stochastic.asked_only(trial.network)
        first = trial.load(_spread(trial.alike, head, logits, seed))
        compared = tuple(map(preprocess, torch.split(first, chunks.limit)))
        with full_precision(network.device):
            if network.settle_on:
                network = network.settle_on([*compared, *map(preprocess, trial.other_shapes())])
            # Another form of a network that draws would draw differently, or once for all calls.
            search_form, bare, search_notes = (
                _search_forms(spec, network, head, compared) if randomness is None else (None, None, ())
            )
            if search_form is not None and search_form.error > 0:
                search_form = replace(search_form, steepness=_steepness(search_form, preprocess, chunks, first))
    sha256, infos = _unchanged(path, files, before, network)
    notes = (
        *device_notes,
        *([devices.NOTE] if network.device.type == "cuda" else []),
        *([preprocess.note] if preprocess.note else []),
        *network.notes,
        *_negatives(spec),
        *probe_notes,
        *search_notes,
        *([stochastic.note(network)] if randomness is not None else []),
    )
    candidate = Candidate(
        network=network,
        preprocess=preprocess,
        head=head,
        info=_model_info(spec, network, head, sha256, infos, notes),
        chunks=chunks,
        meter=trial.meter,
        search_form=search_form,
        bare=bare,
        randomness=randomness,
    )
    if oracles and spec.precision == "auto" and len(trial.sizes) <= _MOST_SHAPES:
        with left_as_found():
            candidate = as_oracles_ask(candidate, chain([first], trial.other_shapes()))
    return candidate, logits


def _as_shipped(trial: Trial, seed: int) -> Trial:
    """The trial, if its network's answers do not depend on what was drawn when it was built.

    Raises:
        CandidateError: they do: another draw was shipped, which its file does not hold.
    """
    network = trial.network
    if network.redrawn is None:
        return trial
    some = trial.load(trial.alike[:_PROBED])

    def answers(forward: Forward) -> torch.Tensor:
        torch.manual_seed(seed)  # what it draws when it is asked is no difference
        return raw_scores(forward, network, trial.preprocess, trial.chunks, some)

    if not torch.allclose(answers(network.forward), answers(network.redrawn.forward), equal_nan=True):
        raise CandidateError(network.redrawn.sentence)
    return replace(trial, network=replace(network, redrawn=None))


def _asked(
    spec: ModelSpec, trial: Trial, progress: Callable[[int, int], None] | None
) -> tuple[AnyHead, torch.Tensor, float | None, tuple[str, ...]]:
    """How a network's scores are read, and its logits (N, K) on all samples; how far answers differ, and notes."""
    network, raw, some = trial.network, trial.all_scores(progress), trial.load(trial.alike[:_PROBED])
    head = read_head(spec, raw, lambda: trial.beyond(some))
    randomness, notes = check_evaluation_mode(
        trial.ask,
        some,
        trial.chunks.limit,
        network.in_training(),
        network.precision,
        has_mode=network.has_mode,
        quantised_by_batch=network.quantised_by_batch,
    )
    logits = head.logits(raw)
    if randomness is not None:
        others = [head.logits(trial.all_scores(progress)) for _ in range(stochastic.CALLS - 1)]
        logits = stochastic.usual(head, torch.stack([logits, *others]))
    return head, logits, randomness, notes


def _unchanged(
    path: Path, files: Sequence[Path], before: tuple[FileInfo, ...], network: Network
) -> tuple[str, tuple[FileInfo, ...]]:
    """The digest of the candidate's files, and of its code beside the policy, if they are still what was loaded.

    Raises:
        CandidateError: one of them changed.
    """
    sha256, infos = artefact.digest([*files, *network.sources], path.parent)
    if (*infos[: len(before)], *(one.sha256 for one in infos[len(before) :])) != (*before, *network.sources.values()):
        raise CandidateError(f"{path.name} changed while it was loaded, so what was judged has no digest")
    return sha256, infos


def _negatives(spec: ModelSpec) -> list[str]:
    """The note on which labels are negatives beside one of three or more; for grades, that may not be meant."""
    if spec.positive is None or spec.task == "multilabel" or len(spec.labels) < 3:
        return []
    others = listed(label for label in spec.labels if label != spec.positive)
    return [f"all labels but {printable(spec.positive)} are negatives: {others}"]


def _model_info(
    spec: ModelSpec, network: Network, head: AnyHead, sha256: str, files: tuple[FileInfo, ...], notes: tuple[str, ...]
) -> ModelInfo:
    """What reports say of the candidate."""
    return ModelInfo(
        path=spec.path,
        format=FORMATS[Path(spec.path).suffix.lower()],
        sha256=sha256,
        files=files,
        task=spec.task,
        labels=spec.labels,
        positive=spec.positive,
        operating_point=head.operating_point,
        output=head.found,
        architecture=None if network.whole else spec.architecture,
        architecture_args={} if network.whole else spec.architecture_args,
        weights=spec.weights,
        scores=spec.scores,
        preprocess=spec.preprocess.model_dump(mode="json"),
        precision=spec.precision,
        notes=notes,
    )


def _search_forms(
    spec: ModelSpec, network: Network, head: AnyHead, example: Sequence[torch.Tensor]
) -> tuple[SearchForm | None, SearchForm | None, tuple[str, ...]]:
    """The form of the network that searches use, the one without an ending, and what readers should know of them."""
    module = network.module
    if module is None:
        return None, None, ()
    from robustcheck.models.fast import endings, fast_form  # torch.fx takes a moment to import

    notes = list[str]()
    search_form = bare = None
    form = module
    if head.outputs_probabilities and (without := endings.leave_off(module, head.ending)) is not None:
        logits = replace(head, outputs_probabilities=False)
        # Where a network is sure, other logits may be as sure: it is less so between images.
        compared = [*example, *((some + some.roll(1, dims=0)) / 2 for some in example)]
        if fast_form.alike(module, without, compared, head, logits):
            form, search_form = without, (bare := SearchForm(forward=without, head=logits, error=0.0))
            notes.append(f"searches use the input of its last {head.ending}, where gradients do not vanish")
    seen = head if bare is None else bare.head
    if spec.precision == "auto" and (found := fast_form.faster(form, example, seen)) is not None:
        error = found.error
        if network.twin is not None:
            most = _SURE if head.outputs_probabilities else inf
            error += fast_form.margin_error(network.forward, network.twin, example, head, most=most)
        search_form = SearchForm(forward=found.forward, head=seen, error=error)
        notes.append(f"searches use a faster form of it ({found.words}); verdicts are its own, in float32")
    return search_form, bare, tuple(notes)


def _steepness(form: SearchForm, preprocess: Preprocess, chunks: Chunks, images: torch.Tensor) -> dict[str, float]:
    """How much the nearest margin changes per unit of a ball's radius, by its norm: medians over images (N, C, H, W).

    To first order that is the dual norm of the gradient.
    """

    def gradient(some: torch.Tensor) -> tuple[torch.Tensor, ...]:
        some = some.detach().requires_grad_()
        with torch.enable_grad():
            raw = rows(form.forward(preprocess(some)), len(some))
            margins = form.head.margins(form.head.logits(raw.float()))
            return torch.autograd.grad(margins.abs().amin(dim=1).sum(), some)

    every = chunks(gradient, images)[0].flatten(1)
    return {norm: float(every.norm(p=dual, dim=1).median()) for norm, dual in (("linf", 1), ("l2", 2))}


def _spread(alike: Sequence[int], head: AnyHead, logits: torch.Tensor, seed: int) -> list[int]:
    """A few of these samples, of one shape, that cover every reading by the logits (N, K) of all samples.

    The first ones would not do: sources are often sorted by label.
    """
    choose = spread if head.multilabel else stratified
    readings, names = head.decide(logits[list(alike)]).numpy(), [str(sample) for sample in alike]
    chosen = choose(names, readings, samples=min(_COMPARED, len(alike)), seed=seed)
    return [alike[place] for place in chosen.tolist()]


def _files(path: Path, spec: ModelSpec) -> list[Path]:
    if not path.is_file():
        raise CandidateError(f"{path} is not a file" if path.exists() else f"there is no file {path}")
    if pointer := if_pointer(path):
        raise CandidateError(f"{path.name} {pointer}")
    if path.suffix.lower() == ".onnx":
        from robustcheck.models.onnx.file import onnx_files

        return onnx_files(path, operators=bool(spec.operators))
    artefact.check_beginning(path)
    return [path]


def _load_within_memory(path: Path, spec: ModelSpec, folder: Path, device: torch.device) -> Network:
    try:
        return _load(path, spec, folder, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NoMemoryError(f"{path.name} alone, without any image, does not fit in the memory of {device}") from error


def _load(path: Path, spec: ModelSpec, folder: Path, device: torch.device) -> Network:
    # Each format's loader is imported when it is needed: onnxruntime alone costs a tenth of a second.
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from robustcheck.models.onnx.load import libraries_of, load_onnx

        return load_onnx(path, spec, libraries_of(spec, folder), device)
    if suffix == ".ts":
        from robustcheck.models.pytorch.torchscript import load_torchscript

        return load_torchscript(path, device, spec.output_name)
    if suffix == ".pt2":
        from robustcheck.models.pytorch.torch_export import load_exported

        return load_exported(path, device, spec.output_name)
    from robustcheck.models.pytorch.state_dict import load_state_dict

    return load_state_dict(path, spec, folder, device)

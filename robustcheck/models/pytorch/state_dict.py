"""State dicts (.safetensors, .pt): weights into an architecture that the policy names.

A `.pt` file is a pickle; it is read with weights only, which runs no code, unless the policy says `trust: pickle`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.parameter import is_lazy

from robustcheck.errors import CandidateError, RobustcheckError
from robustcheck.importing import import_callable, module_in_place, modules_beside
from robustcheck.models.artefact import check_archive
from robustcheck.models.network import Network, Redrawn, Takes, dtype_of, first_line, freeze, in_dtype
from robustcheck.models.output_selection import Answering
from robustcheck.models.process_settings import seed_all
from robustcheck.models.pytorch.checkpoint import (
    Weights,
    chosen,
    holds_other,
    lists_beside,
    weights_in,
    without_wrapping,
)
from robustcheck.models.pytorch.checkpoint_pickle import OtherClassError, check_checkpoint
from robustcheck.models.pytorch.drawn import first_drawn, unsaved
from robustcheck.models.pytorch.hyper_parameters import compared
from robustcheck.models.pytorch.pickles import ForgedPickleError
from robustcheck.models.pytorch.unregistered import first_in_training, unregistered, unregistered_note
from robustcheck.policy import ModelSpec
from robustcheck.policy.model_spec import whole_model
from robustcheck.user_code_files import own_sources, written_in
from robustcheck.words import brief, listed, printable, shown

_MOST_NAMED = 3
_OTHER_NAMES = (
    "; transformers' save_pretrained gives weights other names than the network has: save the state_dict() of what "
    "from_pretrained makes from its folder"
)
_WRITE_A_FUNCTION = (
    "if it takes more than plain arguments, write a function beside the policy that makes the network (docs/policy.md, "
    "'Networks of other packages')"
)
_OF_ARCHIVES = "PytorchStreamReader failed"  # how torch begins to say that a part of an archive is not as it should be
_ARGUMENT_MISSING = re.compile(r"missing \d+ required ")
_ANOTHER_SEED = 2**31 - 1  # than a policy is likely to have
_WHOLE = (torch.int64, torch.bool)  # types of plain Python numbers, not of quantised ones
_DYNAMIC = "torch.ao.nn.quantized.dynamic."  # layers that take the range of what they are given
_Conv = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)


def load_state_dict(path: Path, spec: ModelSpec, folder: Path, device: torch.device) -> Network:
    """Build the architecture, fill it, set it to evaluation mode.

    Raises:
        CandidateError: the file is not a state dict, or is one of another architecture.
    """
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path, spec, folder)
    module, whole, sources, notes, other = _network(content, path, spec, folder)
    for one in (module, *([other[1]] if other else [])):
        one.eval().to(device)
        freeze(one)
    unseen = unregistered(module)
    if not whole and (said := unregistered_note(unseen)):
        notes = (*notes, said)
    dtype, answering = dtype_of(module), Answering(module, spec.output_name)
    return Network(
        forward=in_dtype(answering, dtype),
        device=device,
        module=answering if dtype == torch.float32 else None,
        convolves_as_laid_out=dtype == torch.float32 and any(isinstance(part, _Conv) for part in module.modules()),
        precision=dtype,
        has_mode=False,
        in_training=lambda: first_in_training({"": module, **unseen}),  # forward may set modes, too
        quantised_by_batch=any(name.startswith(_DYNAMIC) for name in layer_modules(module)),
        takes=takes(module),
        redrawn=other and _redrawn(*other, path, spec),
        whole=whole,
        sources=sources,
        notes=notes,
    )


def _network(
    content: Any, path: Path, spec: ModelSpec, folder: Path
) -> tuple[torch.nn.Module, bool, dict[Path, str], tuple[str, ...], tuple[str, torch.nn.Module] | None]:
    """The network, whether the file holds it as a whole, the files that it is written in, notes, and see `_another`."""
    found: Mapping[str, Weights] = weights_in(content, spec.weights)
    built: tuple[torch.nn.Module, dict[Path, str]] | None = None
    if spec.architecture is None:
        found = {key: weights for key, weights in found.items() if isinstance(weights, torch.nn.Module)}
        if not found and not isinstance(content, Mapping):
            raise CandidateError(holds_other(content, path))
        if not found:
            raise CandidateError("a state dict needs model.architecture, 'module:callable'")
    elif not found or not all(isinstance(weights, torch.nn.Module) for weights in found.values()):
        built = build(spec.architecture, spec.architecture_args, folder)
    key = chosen(found, spec.weights, built[0].state_dict() if built else {}, content, path)
    weights = found[key]
    notes: tuple[str, ...] = (f"its weights are those under {brief(key)!r} in the file",) if key else ()
    if not isinstance(weights, torch.nn.Module):
        assert built is not None
        assert spec.architecture is not None
        make = import_callable(spec.architecture, folder=folder)
        said = compared(content, key, make, spec.architecture_args, names=(spec.architecture, path))
        said += _fill(built[0], weights, path, spec)
        if beside := list(lists_beside(content, list(built[0].parameters()))):
            said += (
                f"the file also holds tensors of the shapes of its parameters under {listed(map(shown, beside))}, "
                f"perhaps averages of weights; {f'those under {key!r}' if key else 'the others'} are judged",
            )
        return built[0], False, built[1], notes + said, _another(built[0], weights, path, spec, folder)
    if spec.architecture is not None:
        notes += (f"the file holds the network itself: {spec.architecture}, the architecture, is not used",)
    return weights, True, own_sources(layer_modules(weights), folder=folder), notes, None


def _another(
    module: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path, spec: ModelSpec, folder: Path
) -> tuple[str, torch.nn.Module] | None:
    """What a network with these weights holds that another seed makes otherwise, and the one with it; if any."""
    if not unsaved(module):
        return None
    assert spec.architecture is not None
    seed_all(_ANOTHER_SEED)
    try:
        other, _ = build(spec.architecture, spec.architecture_args, folder)
        _fill(other, weights, path, spec)
    except CandidateError:  # as where a function can be called only once
        return None
    where = first_drawn(module, other)
    return None if where is None else (where, other)


def _redrawn(where: str, other: torch.nn.Module, path: Path, spec: ModelSpec) -> Redrawn:
    return Redrawn(
        forward=in_dtype(Answering(other, spec.output_name), dtype_of(other)),
        sentence=(
            f"{printable(brief(where))} of {spec.architecture} is drawn when the network is built, its scores depend "
            f"on it, and it is not in {path.name}: register it as a buffer that is saved (register_buffer), and save "
            "the weights of the network that you ship again"
        ),
    )


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CandidateError(f"{path.name} is not a complete safetensors file: {first_line(error)}") from None


def _read_pickle(path: Path, spec: ModelSpec, folder: Path) -> Any:
    names = check_archive(path)
    if (meant := whole_model(names)) is not None:
        kind, ending = meant
        raise CandidateError(f"{path.name} is {kind}, not a state dict; rename it to end in {ending}")
    if not names and not _is_pickle(path):  # torch's format before 1.6 was a bare pickle
        raise CandidateError(f"{path.name} is not a complete torch.save file: it is cut short, or something else")
    try:
        trusted = spec.trust == "pickle"
        if not trusted:
            check_checkpoint(path)
        # A whole network's class may lie beside the policy, as architectures do.
        with warnings.catch_warnings(), modules_beside(folder) if trusted else nullcontext():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=not trusted)
    except ForgedPickleError as error:
        raise CandidateError(f"{path.name} {error}; it is not loaded") from None
    except pickle.UnpicklingError as error:
        held = f" ({printable(brief(str(error)))})" if isinstance(error, OtherClassError) else ""
        raise CandidateError(
            f"{path.name} holds Python objects besides tensors{held}, and loading them could run code; save the state "
            "dict alone (better: as .safetensors), or set model.trust: pickle if you trust whoever made the file"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a broken file, or with trust any code, raises anything)
        reason = first_line(error)
        if reason.startswith(_OF_ARCHIVES):  # torch goes on about errors of its own
            reason = reason.partition(". ")[0]
            raise CandidateError(f"{path.name} is incomplete or damaged ({reason}): copy or save it again") from None
        raise CandidateError(f"{path.name} cannot be loaded: {reason}") from None


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1) == pickle.PROTO


def build(
    reference: str, arguments: Mapping[str, Any], folder: Path, *, key: str = "model.architecture"
) -> tuple[torch.nn.Module, dict[Path, str]]:
    """A network without its weights, and the files beside the policy that it is written in, with their sha256.

    Args:
        reference: `module:callable`.
        arguments: of the callable, by keyword.
        folder: the policy's.
        key: where the policy names the architecture.

    Raises:
        CandidateError: it fails, or makes something else.
        UserCodeError: there is no such callable, or the user's own code has imported it, and it was edited since.
    """
    make = import_callable(reference, folder=folder)
    try:
        with module_in_place(reference, folder):
            module = make(**arguments)
    except RobustcheckError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        message = f"{reference}({given}) failed: {type(error).__name__}: {first_line(error)}"
        packaged = not own_sources(written_in(reference, make), folder=folder)
        raise CandidateError(f"{key}: {message}{_advice(error, key, packaged=packaged)}") from error
    if not isinstance(module, torch.nn.Module):
        raise CandidateError(
            f"{key}: {reference} made an object of type {type(module).__name__}, not a torch.nn.Module"
        )
    modules = {*written_in(reference, make), *layer_modules(module)}
    return module, own_sources(modules, folder=folder)


def _advice(error: BaseException, key: str, *, packaged: bool) -> str:
    """What to do about an architecture that lacks an argument, or looks for files as those of `transformers` do.

    Args:
        error: of the call, or of what it calls, which `architecture_args` does not reach.
        key: where the policy names the architecture.
        packaged: the architecture does not lie beside the policy.
    """
    if isinstance(error, OSError) and packaged:
        return f"; {_WRITE_A_FUNCTION}"
    at_the_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
    if at_the_call and isinstance(error, TypeError) and _ARGUMENT_MISSING.search(str(error)):
        return f"; state it in {key}_args, or, {_WRITE_A_FUNCTION}"
    return ""


def layer_modules(module: torch.nn.Module) -> set[str]:
    """The names of the modules that a network's layers are written in."""
    return {type(layer).__module__ for layer in module.modules()}


def _fill(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path, spec: ModelSpec) -> tuple[str, ...]:
    """Put weights into their places; what the reader of a report should know about it."""
    wanted = module.state_dict()
    given = without_wrapping(weights, wanted)
    weights = _renamed(module, given, wanted)
    missing, unexpected = _misfits(weights, wanted)
    reshaped = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(wanted[name].shape)} in the architecture"
        for name in wanted
        if name in weights and not _fits(weights[name], wanted[name])
    ]
    found = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("not in it", unexpected), ("of another shape", reshaped))
        if names
    ]
    if found and (part := _part(weights, wanted)):
        beside = [name for name in weights if not name.startswith(part)]
        raise CandidateError(
            f"{path.name} holds the weights of {spec.architecture} under {brief(part)!r}, and beside them "
            f"{_some(beside)}; name the architecture that all of it belongs to, or save the state dict of that part "
            "alone"
        )
    if wanted and unexpected and not missing and not reshaped:
        raise CandidateError(
            f"{path.name} holds all weights of {spec.architecture}, but also {_some(unexpected)}, for which "
            "there is no place as it is built; build it with one, in a function beside the policy (docs/policy.md, "
            "'Networks of other packages'): leaving them out of the file may make another model"
        )
    if found:
        other_names = _OTHER_NAMES if type(module).__module__.startswith("transformers.") else ""
        arguments = f" with {spec.architecture_args}" if spec.architecture_args else ""
        raise CandidateError(
            f"the weights in {path.name} are not those of {spec.architecture}{arguments} ({'; '.join(found)}); "
            f"check model.architecture and architecture_args{other_names}"
        )
    if packed := [
        f"{name} ({_kind(weights[name])})" for name in wanted if name in weights and _packed(weights, wanted, name)
    ]:
        raise CandidateError(
            f"{path.name} holds {len(packed)} quantised weights where {spec.architecture} has floats: {_some(packed)}; "
            "without their scales they are other numbers: save the network as .pt2 or ONNX, or its weights as floats"
        )
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CandidateError(
            f"the weights in {path.name} do not go into {spec.architecture}: {first_line(error)}"
        ) from None
    stored = {
        (_kind(weights[name]), _kind(place))
        for name, place in wanted.items()
        if name in weights and place.is_floating_point() and weights[name].dtype != place.dtype
    }
    former, present = [name for name in given if name not in weights], [name for name in weights if name not in given]
    renamed = [f"torch takes {_some(former)} in the file for {_some(present)} of the network"] if former else []
    return (
        *renamed,
        *(f"its weights are stored as {kind}, but the network works in {works}" for kind, works in sorted(stored)),
    )


def _renamed(
    module: torch.nn.Module, weights: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights by the names that layers' own hooks give them, as when torch loads them.

    `parametrizations.weight_norm` takes the names of the older `weight_norm`. Hooks may do anything else, so they are
    asked only where names do not fit, and count only where more of them fit then.
    """
    if not any(_misfits(weights, wanted)):
        return weights
    renamed = dict(weights)
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        for hook in part._load_state_dict_pre_hooks.values():
            own = {name: value for name, value in renamed.items() if name.startswith(prefix)}
            others = {name: value for name, value in renamed.items() if name not in own}
            with suppress(Exception):
                hook(own, prefix, {}, True, [], [], [])
                renamed = {**others, **own}
    return min(weights, renamed, key=lambda some: sum(map(len, _misfits(some, wanted))))


def _misfits(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """The names that are missing, and those that are not wanted."""
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    return missing, [name for name in weights if name not in wanted]


def _packed(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], name: str) -> bool:
    """Whether a weight has few bits, which stand for other numbers, where a network has floats."""
    value = weights[name]
    narrow = value.element_size() == 1 if value.is_floating_point() else value.dtype not in _WHOLE
    return wanted[name].is_floating_point() and narrow


def _kind(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _fits(value: torch.Tensor, place: torch.Tensor) -> bool:
    """Whether weights are of the shape that is wanted; lazy layers take any."""
    return is_lazy(place) or value.shape == place.shape


def _part(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str | None:
    """The prefix under which everything that is wanted stands, among other things."""
    first = next(iter(wanted), "")
    for prefix in (name.removesuffix(first) for name in weights if name.endswith(f".{first}")):
        if all(prefix + name in weights and _fits(weights[prefix + name], place) for name, place in wanted.items()):
            return prefix
    return None


def _some(names: list[str]) -> str:
    return ", ".join(map(brief, names[:_MOST_NAMED])) + (", …" if len(names) > _MOST_NAMED else "")


def takes(module: torch.nn.Module) -> Takes | None:
    """The channels of the first layer, if that is a convolution."""
    first = next((layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))), None)
    return (None, first.in_channels, None, None) if isinstance(first, torch.nn.Conv2d) else None

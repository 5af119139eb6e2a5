"""State dicts (.safetensors, .pt): weights into an architecture that the policy names.

A `.pt` file is a pickle; it is read with weights only, which runs no code, unless the policy says `trust: pickle`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

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
)
from robustcheck.models.pytorch.checkpoint_pickle import OtherClassError, check_checkpoint
from robustcheck.models.pytorch.drawn import first_drawn, unsaved
from robustcheck.models.pytorch.filling import fill
from robustcheck.models.pytorch.hyper_parameters import compared
from robustcheck.models.pytorch.pickles import ForgedPickleError
from robustcheck.models.pytorch.unregistered import first_in_training, unregistered, unregistered_note
from robustcheck.policy import ModelSpec
from robustcheck.policy.model_spec import whole_model
from robustcheck.user_code_files import own_sources, written_in
from robustcheck.words import brief, listed, printable, shown

_WRITE_A_FUNCTION = (
    "if it takes more than plain arguments, write a function beside the policy that makes the network (docs/policy.md, "
    "'Networks of other packages')"
)
_OF_ARCHIVES = "PytorchStreamReader failed"  # how torch begins to say that a part of an archive is not as it should be
_ARGUMENT_MISSING = re.compile(r"missing \d+ required ")
_ANOTHER_SEED = 2**31 - 1  # than a policy is likely to have
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
        said += fill(built[0], weights, path, spec)
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
        fill(other, weights, path, spec)
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


def takes(module: torch.nn.Module) -> Takes | None:
    """The channels of the first layer, if that is a convolution."""
    first = next((layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))), None)
    return (None, first.in_channels, None, None) if isinstance(first, torch.nn.Conv2d) else None

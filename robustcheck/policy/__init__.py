"""What is asked: the policy file, read, checked and expanded into gates.

`load_policy` (`loader`) is the only way in. `yamltext` and `yamltree` read YAML safely into a `tree` that remembers
places; `schema` says what may be written, of the kinds in `fields`: the candidate in `model_spec`, how images are seen
in `viewing_spec`, the attacks in `attack_specs`, of which each is an `attack_entry`: those that follow gradients
(`gradient_specs`), ask (`query_specs`), follow another model (`transfer_spec`), or lie on a part of the image
(`patch_specs`). `quantities`, `sizes` and `bounds` read the small languages inside it (`2/255`, `10%`, `>= 0.7`).
`checks` looks at what no single field shows, with `model_checks`, `gate_checks`, `query_checks`, `transfer_checks`,
`patch_checks` and `requirement_checks`, and with what these share in `sections`; `mistakes` turns what pydantic found
into sentences. No torch here: validating a policy takes milliseconds.
"""

from robustcheck.policy.attack_specs import ATTACKS, AttackSpec
from robustcheck.policy.bounds import Bound
from robustcheck.policy.fields import SPLITS
from robustcheck.policy.gradient_specs import APGDSpec, EnsembleSpec, FGSMSpec, FMNSpec, PGDSpec
from robustcheck.policy.loader import Gate, Policy, load_policy
from robustcheck.policy.model_spec import ModelSpec, PreprocessSpec
from robustcheck.policy.patch_specs import PatchSpec, RP2Spec
from robustcheck.policy.quantities import Quantity
from robustcheck.policy.query_specs import (
    HopSkipJumpSpec,
    LabelOnlySpec,
    NESSpec,
    NoiseSpec,
    PartialInformationSpec,
    RaySSpec,
    SlowToBegin,
    SquareSpec,
)
from robustcheck.policy.schema import DataSpec, DecisionSpec
from robustcheck.policy.sizes import Size
from robustcheck.policy.transfer_spec import SurrogatesEntry, SurrogateSpec, TrainSpec, TransferSpec
from robustcheck.policy.viewing_spec import ConditionsSpec

__all__ = [
    "ATTACKS",
    "SPLITS",
    "APGDSpec",
    "AttackSpec",
    "Bound",
    "ConditionsSpec",
    "DataSpec",
    "DecisionSpec",
    "EnsembleSpec",
    "FGSMSpec",
    "FMNSpec",
    "Gate",
    "HopSkipJumpSpec",
    "LabelOnlySpec",
    "ModelSpec",
    "NESSpec",
    "NoiseSpec",
    "PGDSpec",
    "PartialInformationSpec",
    "PatchSpec",
    "Policy",
    "PreprocessSpec",
    "Quantity",
    "RP2Spec",
    "RaySSpec",
    "Size",
    "SlowToBegin",
    "SquareSpec",
    "SurrogateSpec",
    "SurrogatesEntry",
    "TrainSpec",
    "TransferSpec",
    "load_policy",
]

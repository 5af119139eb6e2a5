"""What is asked: the policy file, read, checked and expanded into gates.

`load_policy` is the only way in. `yamltext` and `yamltree` read YAML safely into a `tree` that remembers places;
`schema` says what may be written, of the kinds in `fields`, and `attack_specs` which attacks there are; `quantities`
and `bounds` read the small languages inside it (`2/255`, `>= 0.7`); `checks` and `gate_checks` look at what no single
field shows; `mistakes` turns what pydantic found into sentences. No torch here: validating a policy takes milliseconds.
"""

from robustcheck.policy.attack_specs import (
    ATTACKS,
    APGDSpec,
    AttackSpec,
    EnsembleSpec,
    FGSMSpec,
    FMNSpec,
    PGDSpec,
    SquareSpec,
)
from robustcheck.policy.bounds import METRICS, Bound
from robustcheck.policy.loader import Gate, Policy, load_policy
from robustcheck.policy.quantities import Quantity
from robustcheck.policy.schema import DataSpec, ModelSpec, PolicyFile, PreprocessSpec

__all__ = [
    "ATTACKS",
    "METRICS",
    "APGDSpec",
    "AttackSpec",
    "Bound",
    "DataSpec",
    "EnsembleSpec",
    "FGSMSpec",
    "FMNSpec",
    "Gate",
    "ModelSpec",
    "PGDSpec",
    "Policy",
    "PolicyFile",
    "PreprocessSpec",
    "Quantity",
    "SquareSpec",
    "load_policy",
]

"""What is asked: the policy file, read, checked and expanded into gates.

`load_policy` is the only way in. `yamltext` and `yamltree` read YAML safely into a `tree` that remembers places;
`schema` says what may be written, of the kinds in `fields`; `quantities` and `bounds` read the small languages inside
it (`2/255`, `>= 0.7`); `checks` and `gate_checks` look at what no single field shows; `mistakes` turns what pydantic
found into sentences. No torch here: validating a policy takes milliseconds.
"""

from robustcheck.policy.bounds import METRICS, Bound
from robustcheck.policy.loader import Gate, Policy, load_policy
from robustcheck.policy.quantities import Quantity
from robustcheck.policy.schema import (
    ATTACKS,
    APGDSpec,
    AttackSpec,
    DataSpec,
    EnsembleSpec,
    FGSMSpec,
    FMNSpec,
    ModelSpec,
    PGDSpec,
    PolicyFile,
    PreprocessSpec,
    SquareSpec,
)

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

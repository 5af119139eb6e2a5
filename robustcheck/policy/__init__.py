"""What is asked: the policy file, read, checked and expanded into gates.

`load_policy` is the only way in. `yamltree` reads YAML safely and remembers lines, `schema` says what may be written,
`quantities` and `bounds` read the small languages inside it (`2/255`, `>= 0.7`), `checks` looks at what no single
field shows, and `mistakes` turns all of it into sentences. No torch here: validating a policy takes milliseconds.
"""

from robustcheck.policy.bounds import METRICS, Bound
from robustcheck.policy.loader import Gate, Policy, load_policy
from robustcheck.policy.quantities import Quantity
from robustcheck.policy.schema import ATTACKS, DataSpec, FGSMSpec, ModelSpec, PGDSpec, PolicyFile, PreprocessSpec

__all__ = [
    "ATTACKS",
    "METRICS",
    "Bound",
    "DataSpec",
    "FGSMSpec",
    "Gate",
    "ModelSpec",
    "PGDSpec",
    "Policy",
    "PolicyFile",
    "PreprocessSpec",
    "Quantity",
    "load_policy",
]

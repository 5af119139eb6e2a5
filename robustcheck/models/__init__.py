"""The candidate: loading it, asking it, and the access levels that attacks are handed.

`loading` turns an artefact of any format (`state_dict`, `torchscript`, `exported` with its `program`, `onnx` with
`onnx_file`, `session`, `twin` and `agreement`) into a `Network`, with the digest of every file of it (`artefact`).
`search` makes faster forms of it, and `layout` says how images lie in memory for those who ask. `preprocess` maps
stored pixels to its input, `head` or `findings` reads its scores (`output` tells what they are), and `candidate` joins
the three, in batches that fit (`memory`) and in a process that is left as it was (`process`). `access` is what an
attack gets: a white box, or an oracle that counts.
"""

from robustcheck.models.access import LabelOracle, Meter, ScoreOracle, Surrogates, TopKOracle, WhiteBox
from robustcheck.models.candidate import Candidate
from robustcheck.models.head import Head
from robustcheck.models.loading import load_candidate

__all__ = [
    "Candidate",
    "Head",
    "LabelOracle",
    "Meter",
    "ScoreOracle",
    "Surrogates",
    "TopKOracle",
    "WhiteBox",
    "load_candidate",
]

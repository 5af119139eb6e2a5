"""The candidate: loading it, asking it, and the access levels that attacks are handed.

`loading` turns an artefact of any format (`pytorch`, `onnx` with its `twin`) into a `network`, on one of the `devices`,
with the digest of every file of it (`artefact`) and no functions that call each other without end (`call_graph`), which
a `trial` asks about the samples; `output_selection` and `score_kind` say which of its outputs are scores, and whether
those are logits. `grey_levels` makes shares of stored pixels, `preprocess` maps these to its input (with fewer `axes`,
where an ONNX file has fewer), `refusals` says what else it wants, `head` or `multilabel_head` reads its
scores, and `candidate` joins the three, in `batches` that fit (`memory`) and in a process that is left as it was
(`process_settings`). `evaluation_mode` tells candidates in training mode from those that draw by design, which
`stochastic` is about. `fast` has forms of a network that answer faster. `access` is what an attack gets: a white
box, or an oracle that counts; `means` are those of the gradients of several networks, or calls.
"""

from robustcheck.models.access import LabelOracle, ScoreOracle, Surrogates, TopKOracle, WhiteBox
from robustcheck.models.candidate import Candidate, Meter
from robustcheck.models.loading import load_candidate

__all__ = [
    "Candidate",
    "LabelOracle",
    "Meter",
    "ScoreOracle",
    "Surrogates",
    "TopKOracle",
    "WhiteBox",
    "load_candidate",
]

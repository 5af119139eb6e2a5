"""Whether an attack worked: a gate passes on the strength of it, so it is examined.

`examination` examines one gate: by `checks` that all kinds of gates have, by whether the gradient says what a step
along it brings (`predicting`) and what random patterns do (`explaining`), and by small searches of other kinds
(`probing`). `comparing` and, for patches, `patches` put gates beside one another; `holds_against_others` says whether
a gate would have passed with what others turned.
"""

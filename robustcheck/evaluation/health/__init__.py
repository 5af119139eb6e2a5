"""Whether an attack worked: a pass rests on the attack, so the attack is examined.

`examination` examines one gate: by `checks` that all kinds of gates have, by whether the gradient predicts what a step
along it brings (`predicting`) and what random patterns do (`explaining`), and by small searches of other kinds
(`probing`). `comparing` and, for patches, `patches` compare gates with one another.
"""

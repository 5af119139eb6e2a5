"""Whether an attack worked: a gate passes on the strength of it, so it is examined.

`examination` examines one gate: by `checks` that all kinds of gates have, by what `predicting` sees of the gradient,
and by small searches of other kinds (`probing`). `comparing` puts gates beside one another.
"""

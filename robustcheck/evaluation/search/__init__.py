"""Searching for counterexamples, and deciding what is one.

`searching` runs the searches of a gate over its samples. All of them share one `loop`, whose batch of `rows` stays
full: `gradient_loop` follows gradients, `query_loop` asks the oracles of `models.access`. `adjudication` turns
proposals into counterexamples, `recording` puts the nearest ones into the `ledger`, which remembers them across gates,
and `found` gathers what else a gate's searches saw. `starting_images` are images of the wanted label, for attacks that
begin there; `warm_starts` are where other searches ended.
"""

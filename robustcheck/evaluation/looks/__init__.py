"""How an image is looked at: once, under conditions that change from look to look, or by a candidate that draws.

`look` says what a viewer is and has the one that judges by a single look, `conditions` looks through viewing
conditions, `stochastic` asks a candidate that draws many times, what many looks saw is counted in a `tally`, and
`choice` says which viewer a gate takes. Gradients are expectations over looks (EOT; Athalye et al. 2018, arXiv
1707.07397).
"""

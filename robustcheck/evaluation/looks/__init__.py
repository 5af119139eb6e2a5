"""How an image is looked at: once, under conditions that change from look to look, or by a candidate that draws.

`look` says what a viewer is and has the one that judges by a single look, `conditions` looks through viewing
conditions, `stochastic` asks a candidate that draws many times, `tally` counts what many looks saw, and `choice`
says which viewer a gate takes. Gradients are expectations over looks (`eot`; Athalye et al. 2018, arXiv
1707.07397).
"""

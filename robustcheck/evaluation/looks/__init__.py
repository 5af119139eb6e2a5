"""How an image is looked at: once, under conditions that change from look to look, or by a candidate that draws.

`look` says what a look is and judges by a single one, `conditions` looks through viewing conditions, `stochastic` asks
a candidate that draws many times, and `choice` says which one a gate takes. Gradients are expectations over looks
(EOT; Athalye et al. 2018, arXiv 1707.07397).
"""

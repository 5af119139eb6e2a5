"""What is measured, and how sure it is: metrics of all samples and of parts of them, their intervals, and verdicts.

`readings` has what each metric is, `slices` measures parts of the samples with it, and `measurement` puts both
together. `chance` says whether a candidate tells samples apart. `intervals` says how sure a figure is: `clusters` what
samples of one patient are worth, `roc` areas under curves, `anytime` intervals of gates that may end early, and
`prefixes` with how many samples those may. `verdicts` compares figures with what is required.
"""

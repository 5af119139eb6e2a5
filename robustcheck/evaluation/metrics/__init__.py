"""What is measured, and how sure it is: metrics of all samples and of parts of them, their intervals, and verdicts.

`readings` has what each metric is, `slices` measures parts of the samples with it, and `measurement` puts both
together. `chance` says whether a candidate tells samples apart. `intervals` says how sure a figure is. For that,
`clusters` says what samples of one patient are worth, `roc` has areas under curves, `anytime` intervals of gates that
may end early, and `prefixes` after how many samples they may. `verdicts` compares figures with what is required.
"""

"""Runs gates: loads the candidate and the samples, lets an attack search, adjudicates what it proposes, judges.

`run.run` evaluates a whole policy; `evaluation.Evaluation` gives one gate at a time, for pytest, and several workers
share a policy's gates through `sharing` without changing any answer. `opening` loads what all of them share, once, and
`progress` says how far long work is. `gates` runs one: `adversary` says what is sought and where, `search` (or
`patches`) finds counterexamples, under whatever `looks` the policy asks for; `outcomes` says what became of each
sample, `metrics` measures, `standing` is what searches came to, `health` examines whether the attack worked,
`conclusion` judges, and `findings`, `curves` and `controls` are what the reader of a verdict should know besides.
`cost` counts what it costs, `image_files` writes the images, and `assembly` makes the report. `surrogates` are what
transfer attacks follow. Beside running there is `planning`, which says what a policy needs before anything is run, and
`replay`, which shows a report's counterexamples to the candidate again. Nothing is imported here, so that who only
assembles a report does not load torch.
"""

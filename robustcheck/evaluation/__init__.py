"""Runs gates: loads the candidate and the samples, lets an attack search, adjudicates what it proposes, judges.

`run.run` evaluates a whole policy; `evaluation.Evaluation` gives one gate at a time, for pytest, and several workers
share a policy's gates through `sharing` without changing any answer. `opening` loads what all of them share, once, into
a `setting`; `failures` turns whatever goes wrong into one kind of error, and `progress` says how far long work is.
`gates` runs one: `adversary` says what is sought and where, `threat` says it for the report, and `search` (or
`patches`) finds counterexamples, under whatever `looks` the policy asks for. `outcomes` says what became of each
sample, `metrics` measures, and `standing` is what the searches came to. From that, `stopping` says whether the gate is
decided before its last sample, `health` examines whether the attack worked, and `conclusion` makes the result.
`findings`, `curves` and `controls` are what else the reader of a verdict should know; `vacuous` finds requirements
that no attack can fail, and `weak_passes` finds passes that show little. `cost` counts what a gate costs, `image_files`
writes the images, `environment` says what it was computed with, and `assembly` makes the report. `surrogates` are what
transfer attacks follow.

Apart from running, there is `planning`, which says what a policy needs before anything is run, and `replay`, which
shows a report's counterexamples to the candidate again. Nothing is imported here, so that assembling a report does not
load torch.
"""

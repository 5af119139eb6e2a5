"""Runs gates: loads the candidate and the samples, lets an attack search, adjudicates what it proposes, judges.

`run.run` evaluates a whole policy; `evaluation.Evaluation` gives one gate at a time, for pytest. `engine` keeps a
batch of searches full, `adjudication` turns proposals into counterexamples, `ledger` remembers them across gates,
`metrics` and `verdicts` make figures and decisions of them, `evidence` writes the images, `sharing` lets several
worker processes split a policy's gates without changing any answer, and `assembly` makes the report. `planning.plan`
says what a policy needs, samples and time, before anything is run.
Nothing is imported here, so that who only assembles a report does not load torch.
"""

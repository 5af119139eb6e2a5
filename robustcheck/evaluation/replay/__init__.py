"""Shows a report's counterexamples to the candidate again, and compares what the report says with what follows from it.

`replaying` shows them: `counterexamples`, each read once for all gates that have it, and `patches` as they lie there.
It compares figures and verdicts (`recounting` and `figures`, from conclusions that `restating` makes again), what there
has to be (`completeness`), what samples can have cost (`queries`), health checks and findings (`checks_and_findings`),
gates that share counterexamples (`ladders`), and what the report says about policy, candidate and data (`heading`).
"""

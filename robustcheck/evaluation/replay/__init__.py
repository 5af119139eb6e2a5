"""Shows a report's counterexamples to the candidate again (`replaying`), and compares what the report says with what
follows from it: figures and verdicts (`recounting`, from conclusions that `restating` makes again), gates beside one
another (`ladders`), and what it says of policy, candidate and data (`heading`)."""

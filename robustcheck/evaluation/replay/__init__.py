"""Shows a report's counterexamples to the candidate again (`replaying`; `counterexamples`, each read once for all gates
that have it; `patches`, as they lie there), and compares what the report says with what follows from it: figures and
verdicts (`recounting` and `figures`, from conclusions that `restating` makes again), what there has to be
(`attendance`), what is said of it (`telling`), gates beside one another (`ladders`), and what it says of policy,
candidate and data (`heading`)."""

"""Shows a report's counterexamples to the candidate again, and compares what the report says with what follows from it.

`replaying` shows them: `counterexamples`, each read once for all gates that have it, and `patches` as they lie there.
What is compared are figures and verdicts (`recounting` and `figures`, from conclusions that `restating` makes again),
what there has to be (`completeness`), what is said of it in words (`checks_and_findings`), gates beside one another
(`ladders`), and what it says of policy, candidate and data (`heading`).
"""

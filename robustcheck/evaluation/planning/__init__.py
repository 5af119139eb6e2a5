"""What a policy needs, said before anything is run: samples and time.

`power` says how many samples a requirement on a rate needs, exactly; `expectation` and `predictive_values` the others,
about the `parts` of the samples. `workload` counts what a gate sends through the network, `stepping` times its steps,
`timing` multiplies the two, and `planning` makes a plan of it.
"""

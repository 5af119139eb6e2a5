"""What a policy needs, said before anything is run: samples and time.

`power` says exactly how many samples a requirement on a rate needs; `expectation` and `predictive_values` say it for
others, on the `parts` of the samples. `workload` counts what a gate sends through the network, `stepping` times its
steps, `timing` multiplies the two, and `planning` makes a plan of it.
"""

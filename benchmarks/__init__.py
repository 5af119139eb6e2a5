"""Measures robustcheck beside the libraries that do the same work, and its step beside a loop with nothing in it.

`python -m benchmarks.peers` compares seconds, samples through the network, memory and what is left of accuracy;
`python -m benchmarks.step` measures what the engine adds to one step. Nothing here is installed with the package, and
nothing here reaches into it: robustcheck is used as a user would, through a policy and `run`.
"""

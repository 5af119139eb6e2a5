"""Measures robustcheck beside the libraries that do the same work, and its step beside a loop with nothing in it.

`python -m benchmarks.peers` compares seconds, samples through the network, memory and what is left of accuracy;
`python -m benchmarks.step` measures what the engine adds to one step. What is compared with peers is used as
a user would, through a policy and `run`; what measures one part of robustcheck (`step`, `looks`, `coverage`, the ONNX
scripts) asks that part. Nothing here is installed with the package.
"""

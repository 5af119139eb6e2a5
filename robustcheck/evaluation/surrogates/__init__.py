"""The models that a transfer attack follows: `loading` loads them, or has them trained on what `lessons` gathers.

`training` trains one, `weight_cache` keeps its weights, and `fidelity` says how well they stood in for the candidate.
"""

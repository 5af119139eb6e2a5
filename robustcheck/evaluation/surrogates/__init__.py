"""The models that a transfer attack follows: `loading` loads or trains them, on what `lessons` gathers, and
`weight_cache` keeps their weights; `fidelity` says how well they stood in for the candidate."""

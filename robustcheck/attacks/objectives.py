"""What the adversary raises: one loss a sample."""

from __future__ import annotations

import torch


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-odds (N,) against the true label: log((1 - p) / p) of its softmax probability p.

    Its gradient is a positive multiple of that of the cross-entropy -log p, so signed steps go the same way; but where
    the network is sure and the gradient of cross-entropy rounds to zero, this one does not. For two labels, or one
    logit, it is the margin between them. Above 0 more than half of the probability lies elsewhere.

    Args:
        logits: (N, K), K >= 2; log-probabilities are logits too.
        labels: (N,) indexes.
    """
    true = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.logsumexp(dim=1) - true.squeeze(1)

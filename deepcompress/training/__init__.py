"""Training that keeps what was pruned at zero and what is shared shared."""

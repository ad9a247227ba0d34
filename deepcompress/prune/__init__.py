"""Which weights go: scores, masks from scores, whole filters, and schedules of sparsity."""

"""Inference in integers alone: from codes to accumulators of 32 bits, and back to codes by a multiplier and a shift."""

"""Compression by itself: from what may be lost, or how small the file is to be, to the stages that do it."""

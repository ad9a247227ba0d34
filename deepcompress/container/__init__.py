"""Sections <-> one file. Knows bytes, not weights."""

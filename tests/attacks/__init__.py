"""Files that break a rule, each its own."""

"""Exercises that check themselves: a student's own function against hidden cases, and what differs."""

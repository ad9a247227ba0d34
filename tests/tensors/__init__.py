"""Test data that several files share."""

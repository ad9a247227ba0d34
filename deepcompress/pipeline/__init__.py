"""Stages in a row: a model goes in; a model, a file and a report come out."""

"""Encoders of other groups for sweeps, from published files or with random weights."""

"""Volumes that resemble one another, by frozen features."""

"""Retrieval of similar volumes by frozen features."""

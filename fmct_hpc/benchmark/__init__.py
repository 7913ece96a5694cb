"""Comparison of encoders on several labelled datasets: one sweep each, and common tables."""

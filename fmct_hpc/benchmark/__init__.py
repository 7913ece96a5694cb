"""Encoders on several labelled datasets: a sweep each, and one table."""

"""Figures of classifiers on degraded test volumes: thicker slices, other kernels, noise."""

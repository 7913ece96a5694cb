"""How figures change when the tested volumes are made worse: thicker slices, other kernels, noise."""

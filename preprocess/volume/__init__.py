"""From slices to a head on the canonical grid, and its measures."""

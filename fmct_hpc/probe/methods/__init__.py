"""The methods of a probe. Each file holds a method's settings and what the sweep has to know of it."""

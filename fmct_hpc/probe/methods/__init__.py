"""The methods of a probe. Each file holds a method's settings and its interface to sweeps."""

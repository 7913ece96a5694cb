"""The fmct command, and running its stages on Slurm."""

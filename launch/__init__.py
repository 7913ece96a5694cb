"""The fmct command and its way onto a Slurm cluster."""

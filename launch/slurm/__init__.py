"""Stages as Slurm jobs: the site, the batch script, the chain of them, and what becomes of each."""

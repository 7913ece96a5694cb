"""Slurm: its site file, its batch scripts, and its commands."""

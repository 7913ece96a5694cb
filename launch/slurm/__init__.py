"""Stages as Slurm jobs: site file, batch scripts, pipeline, restarts and status."""

"""A grid of probes as a job array: units of results, tasks of about equal cost, tables."""

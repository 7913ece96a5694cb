"""The stages as jobs of any scheduler, and the pipeline of all of them, from an export to a report."""

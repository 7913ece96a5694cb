"""Whether a volume is the head it should be, and how people see it: checks, pictures, the QC report."""

"""Volumes in formats other than DICOM: from a table of files to a catalog."""

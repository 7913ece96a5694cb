"""Volumes that are no DICOM: from a table of files to a catalog."""

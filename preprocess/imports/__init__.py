"""Volumes in other formats than DICOM: from a table of files to a catalog."""

"""Masks of volumes: from NIfTI files and DICOM Segmentation objects to a dataset of masks (shards.masks)."""

"""Export of an encoder as a backbone for MONAI segmentation networks, independent of this package."""

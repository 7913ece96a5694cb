"""Reading DICOM: files and archives, headers, frames, pixels, slice geometry, and the catalog."""

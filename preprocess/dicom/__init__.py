"""DICOM as it is stored: bytes, headers, frames, pixels, slices in space, and the catalog of header facts."""

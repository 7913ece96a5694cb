"""From a raw DICOM export to de-identified volumes on one grid, in shards."""

"""An encoder as the backbone of a MONAI segmentation network, in a folder that needs none of this package."""

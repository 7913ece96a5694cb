"""Segmentation from frozen patch tokens: heads, their figures, and the comparison of encoders."""

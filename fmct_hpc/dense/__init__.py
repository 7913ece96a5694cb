"""Segmentation from frozen patch tokens: heads, metrics, and comparison of encoders."""

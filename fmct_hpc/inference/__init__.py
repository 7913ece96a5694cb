"""Application of trained encoders to new scans."""

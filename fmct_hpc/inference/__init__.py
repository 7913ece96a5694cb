"""Using a trained encoder on new scans."""

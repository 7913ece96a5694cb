"""Quality control: checks of volumes, images, and the QC report."""

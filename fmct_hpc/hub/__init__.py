"""An encoder as a folder that others load, with transformers or with PyTorch alone."""

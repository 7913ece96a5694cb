"""Export of an encoder to a folder for transformers or plain PyTorch."""

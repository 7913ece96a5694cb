"""DINO and iBOT self-distillation, masked autoencoding, KoLeo."""

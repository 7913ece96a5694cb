"""DINO self-distillation and masked autoencoding."""

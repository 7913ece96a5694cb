"""The training loop under DeepSpeed, its checkpoints and its signals."""

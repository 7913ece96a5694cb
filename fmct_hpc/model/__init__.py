"""The encoders, the DINO head and the MAE decoder."""

"""The 3D vision transformer, its DINO head and its MAE decoder."""

"""The objective: DINO and iBOT self-distillation, MAE, KoLeo, Gram anchoring, LeJEPA."""

"""3D foundation models of head CT: data, model, objective, training, probing."""

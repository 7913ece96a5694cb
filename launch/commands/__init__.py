"""The commands of `fmct`, each a thin layer over a library function.

The modules of the stages are imported inside the commands, so that `fmct --help` does not import torch.
"""

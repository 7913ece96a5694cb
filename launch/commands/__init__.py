"""The commands of `fmct`, each a thin layer over the function that does the work.

The stages' own modules are imported inside the commands: `fmct --help` must not wait for torch.
"""

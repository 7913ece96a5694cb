"""Groups of `fmct` commands, and what commands print."""

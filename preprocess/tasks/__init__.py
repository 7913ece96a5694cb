"""Tasks and their ledger, from plan to finished datasets, manifest and quarantine."""

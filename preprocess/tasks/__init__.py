"""The work as a ledger of tasks, from plan to finished datasets, manifest and quarantine."""

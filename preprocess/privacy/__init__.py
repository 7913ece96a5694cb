"""What stands in the place of identifiers, the way back for those who may go it, and defacing."""

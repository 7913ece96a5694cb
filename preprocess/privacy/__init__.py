"""Pseudonyms in place of identifiers, and tracing them back with catalog and key."""

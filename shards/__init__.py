"""The storage format of head CT volumes: schema, writers, readers, index, verification."""

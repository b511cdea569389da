"""A table's change log: its shards, positions in them, and reading."""

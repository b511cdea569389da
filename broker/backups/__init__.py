"""Backups of the whole store: made online, kept in a folder of the node, restored to a table or to a new store."""

"""What a request means: definitions of tables, checks, and writes and reads of items."""

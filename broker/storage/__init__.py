"""Durable state: RocksDB, the bytes on disk, the group commit and the watermarks. Alone in importing rocksdict."""

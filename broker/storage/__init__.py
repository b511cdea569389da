"""Durable state: RocksDB, the bytes on disk, the group commit and the watermarks. The only package that imports rocksdict."""

"""The client for asyncio. `_sync` is generated from this package by clients/python/unasync.py."""

# Generated from headrace/_async/__init__.py by clients/python/unasync.py; never edited.

"""The client for threads. What `_sync` holds is generated from here."""

"""The client for asyncio. What `_sync` holds is generated from here."""

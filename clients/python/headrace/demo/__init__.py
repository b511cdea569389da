"""The demo: two regions, a trigger and a replica at work on real flights, checked at the end.

Everything runs as it would in production, in processes of its own: two brokers, a trigger host and a replicator, all
driven through the public command line and the public client.
"""

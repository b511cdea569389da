"""Durable, named readers of streams: their checkpoints, leases and live members."""

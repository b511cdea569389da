"""Headrace client."""

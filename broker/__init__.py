"""The Headrace broker."""

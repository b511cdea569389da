"""Condition and update expressions: text to a tree, a tree to an answer. Pure."""

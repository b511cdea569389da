"""Loads files of items into a table: CSV, JSON Lines and DynamoDB JSON, plain or gzipped.

Reading (`formats`, `csv_types`) is pure: lines in, rows or rejected lines out. Writing (`load`) sends the rows in
batches and maps what the broker refuses back to line numbers.
"""

"""Generated from protos/headrace/v1; never edited."""

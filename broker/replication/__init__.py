"""Replicas as the source keeps them, and changes made elsewhere as the target applies them."""

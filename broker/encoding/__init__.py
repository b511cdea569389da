"""Items and records as bytes: the one place that knows their encoding is that of the public protos.

A nested message and a bytes field are the same on the wire, so what is canonical is stored, sent and copied without
being parsed again.
"""

"""PartiQL, the SQL of DynamoDB: each statement is one of its other operations.

Source: Amazon DynamoDB Developer Guide, "PartiQL - a SQL-compatible query language for Amazon DynamoDB".
"""

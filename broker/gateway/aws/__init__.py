"""AWS's JSON protocol of DynamoDB and DynamoDB Streams, for clients made for those."""

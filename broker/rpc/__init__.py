"""The edge: gRPC in, model out, and back. The only package that imports grpc."""

"""The runtime beside this instance, reached over gRPC."""

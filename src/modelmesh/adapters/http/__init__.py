"""The small HTTP servers beside the gRPC ports."""

"""What a resource says of itself, from what the mesh and the cluster answered. Pure."""

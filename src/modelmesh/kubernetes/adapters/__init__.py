"""What the controller talks to: the API server, and the meshes of namespaces."""

"""What the outside sees of an instance besides its answers."""

"""What the Kubernetes controller costs."""

"""What this instance knows of the shared state: read from the store, mirrored by one watch."""

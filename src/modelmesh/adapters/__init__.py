"""The only sockets, files and wall clock: what implements the ports for real."""

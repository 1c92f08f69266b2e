"""Requests that wait for a decision, from the data plane's event to the answer."""

"""Observe, decide, enact: caches of what the cluster has, queues of what is to be looked at, one reconcile per kind."""

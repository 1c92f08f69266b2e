"""Decisions: pure, total functions, one question a file, each answer with a reason.

No I/O, no clock, no randomness of their own: what they need is an argument. Read first: `attempt`
(what next for a request), which asks `placement`; then `eviction` and `admission`.
"""

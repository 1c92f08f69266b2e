"""State machines and ledgers: what lives long, as tables. Events in, effects out; no I/O, no clock.

Read first: `model_copy` (the life of a copy), then `memory` (whose bytes are whose).
"""

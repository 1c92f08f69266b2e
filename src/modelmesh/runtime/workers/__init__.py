"""Models in processes of their own: a crash, a hang or a leak of one does not touch the others.

Read first: `frames` (what the two processes send each other), then `child` (the process of one model), then `parent` (what
the runtime knows of it).
"""

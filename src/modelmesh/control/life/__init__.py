"""How an instance joins, when it is ready, and how it leaves."""

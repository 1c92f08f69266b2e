"""The copies of this instance: claimed, loaded, in memory, evicted; and the runtime that holds them."""

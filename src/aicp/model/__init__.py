"""The values everybody speaks of: frozen, no I/O, no clock."""

"""What may run: chains, taken from submit to their end, every step recorded before anybody builds on it."""

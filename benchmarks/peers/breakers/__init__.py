"""Circuit breakers side by side: one adapter a library, what they cost, and what they get right."""

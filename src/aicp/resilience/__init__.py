"""Whether something may be tried: breakers, boards of breakers, backoff. Knows no agent, task or transport."""

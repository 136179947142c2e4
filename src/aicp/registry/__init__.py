"""AINS, the registry of agents: who exists, what they can do, and when they were last heard."""

"""What people and machines see of a node that runs: metrics, live events, logs."""

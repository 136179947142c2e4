"""Who gets a task, and when: lines of waiting tasks, a fleet of free agents, leases that cannot leak."""

"""Task queues that do what `aicp serve` is measured by: send a task, call an agent, fetch the result."""

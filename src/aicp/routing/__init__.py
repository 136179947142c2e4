"""What happens when it goes wrong: one attempt after another until a task has its answer."""

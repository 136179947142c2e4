"""One place that wires it all: the node, its settings, and the registry's dealings with the fleet."""

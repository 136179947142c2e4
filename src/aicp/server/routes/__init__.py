"""The routes, one module for each part of the API; a route parses, asks the node, and shapes the answer."""

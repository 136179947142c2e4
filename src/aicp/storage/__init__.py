"""Where chains are remembered: journals behind one Protocol."""

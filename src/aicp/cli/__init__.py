"""The command line: thin, one module for each group of commands; heavy imports wait for their command."""

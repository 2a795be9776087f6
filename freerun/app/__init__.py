"""The top layer: the command line, `up`, and what loads the four applications by name."""

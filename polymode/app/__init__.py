"""How people reach it: use cases as plain functions, and the command line on top."""

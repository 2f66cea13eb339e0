"""Where the root of a container comes from."""

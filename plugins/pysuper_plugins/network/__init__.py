"""What the network namespace of a container is connected to."""

"""The commands that are more than a few lines; each prints, and returns its exit status."""

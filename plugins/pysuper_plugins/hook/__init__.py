"""Who is told what happens to containers."""

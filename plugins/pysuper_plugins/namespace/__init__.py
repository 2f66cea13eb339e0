"""One driver a kernel namespace, named as the kernel abbreviates it; namespaces(7)."""

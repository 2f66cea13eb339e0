"""
How a plan becomes a process.

    supervisor (trio)                launcher                         first process of the container
    client.py  --- plan, stdio --->  server.py  --- clone3 --------->  child.py: execute.py, a step at a time
               <-- pidfd ----------             (CLONE_PARENT: its parent is the supervisor)
               <-- barrier, terminal, failed, started, exited -------

This is the Python launcher. The native one is a program in C, `native/`, with the same parts and the same messages.

The launcher is a small process of its own since forking a process that runs trio, attrs and plugins is slow and
copies whatever they hold. It is the only process that forks. It imports all that it needs, then throws the import
system away: once a child has pivoted, an import would run code from the container's root file system.

`server`, `child` and `execute` run in the launcher and in containers: they import nothing but the standard library,
`wire`, `pysuper.syscalls` and `pysuper.capabilities`.
"""

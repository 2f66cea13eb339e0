"""
Which system calls the processes of a container may make: profiles, and the programs that the kernel checks calls with.

A `Profile` says it by name. `default` has the one that containers get, `oci` reads those that docker and others have in
JSON files, and `bpf` compiles them for seccomp(2). All of it is made when a container is planned; the process of the
container only hands the program to the kernel (`pysuper.steps.Seccomp`).
"""

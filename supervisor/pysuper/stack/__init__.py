"""
A stack: the containers of one file, started in the order of their dependencies, kept alive and stopped together.

    multi.toml --config--> StackSpec --> Stack of Instances --journal--> logs, events, why
                                           |  each: lifecycle (sans-IO) decides, the instance acts
                                           +-- control socket <-- ps, stop, exec, stats ...

Words: a *member* is one `[container.NAME]` of the file and how it is supervised. It has as many *instances* as
`replicas` says, called NAME, or NAME-1 and so on. Each start of an instance is a *run*, numbered from 1: one container.
"""

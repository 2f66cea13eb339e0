"""The commands about stacks, each `(argv, prog, summary)` to an exit status; all but `up` start fast."""

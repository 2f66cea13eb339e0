"""Fuzzing: `targets` has what is fuzzed, `run` fuzzes it, and `corpus` has inputs that lead to all of its corners."""

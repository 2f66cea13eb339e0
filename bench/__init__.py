"""What pysuper costs, measured side by side with others; `make bench`, and README.md here."""

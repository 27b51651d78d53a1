"""The rows of `make bench`."""

"""What `make faults` tries: see ../faults.py."""

"""The chaos run (scripts/chaos.py): processes that hand live connections to each other in every way that Unix has."""

"""Rates of servers made of several processes, bare and under NetACC in turn (scripts/processes.py)."""

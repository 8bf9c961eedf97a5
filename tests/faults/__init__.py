"""Faults: programs that are killed, disks and registries that fail, clocks that jump; cases 47 to 54 of contracts/security.md D4."""

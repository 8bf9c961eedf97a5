"""One container: from directories to a process."""

"""The only code that talks to Linux: it raises OSError and knows ints, strings and file descriptors."""

"""Targets that eat hostile bytes, short runs of them in the test suite, and long ones guided by coverage: `./dev fuzz`."""

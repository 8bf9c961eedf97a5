"""Attacks on every promise: the 54 cases of the threat model, each beside what would let it through (`tests.support.defences`)."""

"""Hundreds of jobs of all kinds in one store, in random order, some of them attacked; then nothing is left and nobody else was hurt."""

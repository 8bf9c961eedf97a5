"""CI systems, each in its own protocol; adapters never import each other."""

"""Real collaborators made small: images, registries, callers."""

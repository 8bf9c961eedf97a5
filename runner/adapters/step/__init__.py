"""A step of a GitHub Actions job in a container: `dockless step …` as its `shell:`, on whatever runner."""

"""GitHub Actions: the container hooks of actions/runner (ContainerHooks in its source; ADR 1891 describes an older shape)."""

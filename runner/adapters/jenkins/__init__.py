"""Jenkins: the docker command that Pipelines call."""

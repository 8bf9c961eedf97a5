"""What a CI job is: a keeper, containers, services, steps, and their clean-up."""

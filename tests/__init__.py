"""The tests; one folder per layer, `support` holds the collaborators that they share."""

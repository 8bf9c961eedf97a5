"""Tests of runner.image."""

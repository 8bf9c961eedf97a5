"""The commands that a person types; bodies are short and call the layer below."""

"""Images: bytes from registries and archives to directories that an overlay can stack."""

"""What holds for every test."""

from hypothesis import settings

# no example database, because the tree may be read-only; no deadline, because the machine may be busy
settings.register_profile("dockless", database=None, deadline=None)
settings.load_profile("dockless")

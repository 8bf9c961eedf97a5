"""What root does once on a machine, so that nobody needs root afterwards: account, ids, views, delegation; and how it is taken back."""

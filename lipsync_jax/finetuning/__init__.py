"""Profiles: the articulator fitted to one person's own speech."""

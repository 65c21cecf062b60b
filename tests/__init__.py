"""A package of its own: one that graypy installs has the same name."""

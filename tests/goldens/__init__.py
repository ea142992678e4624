"""Recorded answers of the reference release 4.37.2: the arrays, how they are laid out and how they were made."""

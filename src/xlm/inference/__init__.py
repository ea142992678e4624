"""Models at work: the engine behind xlm.load."""

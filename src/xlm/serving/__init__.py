"""Models behind HTTP: one forward for all that wait, routes that existing clients already speak, and a page."""

"""Examples to features, and logits to answers, one module a task."""

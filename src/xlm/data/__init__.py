"""Files to examples: readers, token stores, language sampling, streams."""

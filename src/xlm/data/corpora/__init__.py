"""Files of raw text -> token stores by language, cleaned, on one machine or many: ``xlm corpus build``."""

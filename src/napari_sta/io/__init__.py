"""Files to nouns and back; the one place that knows rln names, xyz order and dialects."""

"""Writing a cut model for other programs: the formats, and the classes that transformers loads it with."""

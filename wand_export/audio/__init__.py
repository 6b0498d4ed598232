"""Families' own audio decoders: read, rewritten until they can stream, held to their own code, written as graphs."""

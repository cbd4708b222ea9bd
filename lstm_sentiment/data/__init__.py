"""From files to token numbers: sources, tables, tokens, vocabulary, vectors."""

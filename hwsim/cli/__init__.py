"""Command line: parses, calls the library, prints."""

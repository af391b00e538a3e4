"""Ask questions of inputs far bigger than any context window, by Recursive Language Models."""

__version__ = "0.1.0"

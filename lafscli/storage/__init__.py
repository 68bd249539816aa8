"""The only room that reaches servers."""

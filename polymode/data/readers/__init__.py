"""Readers of the user's own files, a file a format; each returns a DataSet."""

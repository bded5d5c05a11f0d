"""Named data sets, a file a kind of data; the official splits wherever there are any."""

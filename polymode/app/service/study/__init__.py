"""Human studies: design, storage in one file, serving, export and analysis. Importing it costs no torch."""

"""Archives of data sets: downloaded, verified and unpacked."""

"""What ``conf/`` means: the typed configuration, its checks, and errors of one line."""

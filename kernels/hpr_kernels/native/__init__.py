"""C kernels for the CPU; each operation's `native` module calls them."""

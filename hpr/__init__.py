"""Rich and lazy learning in recurrent networks (Liu et al., ICLR 2024), at the speed of the machine."""

__version__ = "0.2.0.dev0"

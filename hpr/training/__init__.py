"""How a pack of networks is trained and measured."""

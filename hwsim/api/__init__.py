"""The public functions; every command is a thin wrapper over one of them."""
